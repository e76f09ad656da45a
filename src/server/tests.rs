//! What tests of handlers and protocols need: an app without a worker.

use super::*;

impl App {
    /// An app of the built-in model, for tests of what needs no worker.
    pub(crate) fn for_tests(config: Config) -> SharedApp {
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
            worker: Worker::absent(),
            queue,
            known: watch::Sender::new(None),
            about: About::default(),
            front: http::Front::new(Access::default(), 16, config.n_body),
            config,
        })
    }
}
