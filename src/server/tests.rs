//! What tests of handlers and protocols need: an app without a runner. Fuzz targets need one as well.

use super::*;

impl App {
    /// An app of the built-in model, for tests of what needs no runner.
    #[cfg(test)]
    pub(crate) fn for_tests(config: Config) -> SharedApp {
        Self::without_runner(config, State::Loading(None))
    }

    fn without_runner(config: Config, state: State) -> SharedApp {
        let gguf = crate::model::builtin();
        let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
        let format = ChatFormat::of(&tokenizer, None).unwrap();
        let queue = Queue::new(config.n_slots, config.n_queue);
        Arc::new(App {
            tokenizer,
            format,
            names: Names::new(&[]),
            metrics: Metrics::default(),
            drain: Drain::new(),
            log: Log::new(|_| {}),
            runner: Runner::absent(state),
            queue,
            known: watch::Sender::new(None),
            about: About::default(),
            front: http::Front::new(Access::default(), 16, config.n_body),
            config,
        })
    }
}

/// The status of the answer to a body that has passed the gate, from a server whose engine is lost whenever
/// it is needed; and the answer. `None` where no bodies are taken.
#[cfg(fuzzing)]
pub fn answer_to_body(path: &str, body: &[u8]) -> Option<(u16, Vec<u8>)> {
    use std::sync::LazyLock;

    use tokio::runtime::Runtime;

    static SERVER: LazyLock<(Runtime, SharedApp)> = LazyLock::new(|| {
        let fetch = FetchRule { is_off: true, ..FetchRule::default() };
        let facts = ModelFacts {
            n_ctx: 4096,
            n_ctx_train: 4096,
            patches: Some(crate::vision::PatchConfig::default()),
            n_slots: 8,
            vocabulary: [0; 32],
        };
        let config = Config { fetch, ..Config::default() };
        let app = App::without_runner(config, State::Ready(Arc::new(facts)));
        (Runtime::new().expect("threads can be had"), app)
    });
    let (runtime, app) = &*SERVER;
    runtime.block_on(http::answer_to_body(app.clone(), path, body))
}
