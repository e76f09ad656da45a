//! `gust bench`: flags, the loop over engines, and where rows go.
//!
//! Flags are llama-bench's where it has them. Threads and KV types are fixed when an engine opens, so
//! each combination opens its own; depths and lengths share one. What is timed stands in `bench`.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use indicatif::ProgressBar;

use super::{devices, open, recipe};
use crate::bench::{Bench, Format, Plan, Projection, ReadBuffer, Report, Row, Setup, Shape, Synth};
use crate::cli::{CacheType, DeviceArgs, ModelArgs, WorkerArgs};
use crate::engine::{DeviceOptions, Engine, default_n_threads, memory_available};
use crate::gguf::Gguf;
use crate::model::Mix;
use crate::term::Printer;

/// Layers that are made up unless the user wants more.
const N_LAYER_DEFAULT: u32 = 2;
const MIX_DEFAULT: &str = "Q4_K_M";

/// Flags of `gust bench`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// GGUF file (first part of a split file); without it, the built-in tiny model
    #[arg(short, long, value_name = "FILE", conflicts_with = "shape")]
    model: Option<PathBuf>,
    /// CPU threads [default: the machine's physical cores]
    #[arg(short, long, value_name = "N,…", value_delimiter = ',',
        value_parser = clap::value_parser!(u32).range(1..=512))]
    threads: Vec<u32>,
    /// Prompt lengths to prefill; 0 for none
    #[arg(short = 'p', long, value_name = "N,…", value_delimiter = ',', default_value = "512",
        value_parser = length)]
    n_prompt: Vec<usize>,
    /// Numbers of tokens to generate; 0 for none
    #[arg(short = 'n', long, value_name = "N,…", value_delimiter = ',', default_value = "128",
        value_parser = length)]
    n_gen: Vec<usize>,
    /// Context depths: tokens that are there before the clock starts
    #[arg(short = 'd', long, value_name = "N,…", value_delimiter = ',', default_value = "0",
        value_parser = length)]
    n_depth: Vec<usize>,
    /// Timed runs of each case, after one that is not counted
    #[arg(short, long, value_name = "N", default_value_t = 5,
        value_parser = clap::value_parser!(u32).range(1..=10_000))]
    repetitions: u32,
    /// Format of the rows
    #[arg(
        short,
        long,
        value_enum,
        ignore_case = true,
        value_name = "FORMAT",
        default_value = "md"
    )]
    output: Format,
    /// Types of the K cache [default: f16; f32 for a file of F32 weights]
    #[arg(long, value_enum, ignore_case = true, value_name = "TYPE,…", value_delimiter = ',')]
    cache_type_k: Vec<CacheType>,
    /// Types of the V cache [default: f16; f32 for a file of F32 weights]
    #[arg(long, value_enum, ignore_case = true, value_name = "TYPE,…", value_delimiter = ',')]
    cache_type_v: Vec<CacheType>,
    /// Context length in tokens [default: what the longest case needs]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    ctx: Option<u32>,
    /// Vision projector file; images are not measured
    #[arg(long, value_name = "FILE")]
    mmproj: Option<PathBuf>,
    /// Use weights as they lie in the file, never a copy repacked for this CPU
    #[arg(long)]
    no_repack: bool,
    /// Keep a wrong YaRN magnitude as the file has it
    #[arg(long)]
    yarn_as_is: bool,
    #[command(flatten)]
    devices: DeviceArgs,
    #[command(flatten)]
    workers: WorkerArgs,
    /// Measure a model of this shape with random weights, no file needed, and extrapolate to all layers
    #[arg(long, value_enum, ignore_case = true, value_name = "NAME")]
    shape: Option<Shape>,
    /// Layers that are made up for --shape, at least 2 [default: 2]
    #[arg(long, value_name = "N", requires = "shape",
        value_parser = clap::value_parser!(u32).range(2..))]
    layers: Option<u32>,
    /// Quantization of --shape [default: Q4_K_M]
    #[arg(long, value_name = "NAME", requires = "shape", value_parser = recipe::mix)]
    quant: Option<&'static Mix>,
}

/// More tokens than any model's context has.
const MAX_LENGTH: usize = 1 << 24;

fn length(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if n <= MAX_LENGTH => Ok(n),
        _ => Err(format!("expected a number of tokens, 0 to {MAX_LENGTH}")),
    }
}

/// Runs `gust bench`.
pub fn run(args: Args, printer: &Printer) -> Result<()> {
    let plan = args.plan()?;
    let n_ctx = args.n_ctx(&plan)?;
    let threads = match &args.threads[..] {
        [] => vec![default_n_threads()],
        threads => threads.to_vec(),
    };
    let subject = args.subject(n_ctx, printer)?;
    let first = args.model_args(n_ctx, threads[0], [None, None]);
    let devices = open::device_options(&first, printer)?;
    let bandwidths = bandwidths(&threads, subject.gguf.n_bytes());
    let mut output = Output { report: Report::new(args.output), printer };
    let mut measure = || -> Result<()> {
        let mut is_first = true;
        for (&n_threads, &machine_gb_per_s) in threads.iter().zip(&bandwidths) {
            for cache_types in args.cache_types() {
                let model = args.model_args(n_ctx, n_threads, cache_types);
                let engine = open_engine(&subject, (&model, &devices), is_first, printer)?;
                is_first = false;
                check_ctx(engine.n_ctx(), plan.n_ctx())?;
                measure_engine(&engine, &subject, &plan, machine_gb_per_s, &mut output)?;
            }
        }
        Ok(())
    };
    let done = measure();
    printer.out(output.report.end())?;
    done
}

/// What is measured.
struct Subject {
    gguf: Arc<Gguf>,
    name: String,
    /// For a made-up model.
    projection: Option<Projection>,
}

/// Where rows go.
struct Output<'a> {
    report: Report,
    printer: &'a Printer,
}

impl Output<'_> {
    fn row(&mut self, row: &Row, bar: &ProgressBar) -> Result<()> {
        let text = self.report.row(row);
        Ok(bar.suspend(|| self.printer.out(text))?)
    }
}

impl Args {
    fn plan(&self) -> Result<Plan> {
        let plan = Plan {
            n_prompt: self.n_prompt.clone(),
            n_gen: self.n_gen.clone(),
            n_depth: self.n_depth.clone(),
            n_repetitions: self.repetitions as usize,
        };
        if plan.cases().is_empty() {
            bail!(
                "nothing to measure: no prompt length (-p) and no generation length (-n) above 0"
            );
        }
        Ok(plan)
    }

    fn n_ctx(&self, plan: &Plan) -> Result<u32> {
        let needed = u32::try_from(plan.n_ctx()).context("the longest case is too long")?;
        match self.ctx {
            Some(n_ctx) if n_ctx < needed => {
                bail!("the longest case needs a context of {needed} tokens, --ctx gives {n_ctx}")
            }
            Some(n_ctx) => Ok(n_ctx),
            None => Ok(needed),
        }
    }

    /// Every combination of the listed types; an empty list leaves the type to the engine.
    fn cache_types(&self) -> Vec<[Option<CacheType>; 2]> {
        let list = |types: &[CacheType]| match types {
            [] => vec![None],
            types => types.iter().copied().map(Some).collect(),
        };
        let (keys, values) = (list(&self.cache_type_k), list(&self.cache_type_v));
        keys.iter().flat_map(|&k| values.iter().map(move |&v| [k, v])).collect()
    }

    /// The flags as they would be for one engine.
    fn model_args(&self, n_ctx: u32, n_threads: u32, [k, v]: [Option<CacheType>; 2]) -> ModelArgs {
        ModelArgs {
            model: self.model.clone(),
            ctx: Some(n_ctx),
            threads: Some(n_threads),
            cache_type_k: k,
            cache_type_v: v,
            mmproj: self.mmproj.clone(),
            no_repack: self.no_repack,
            yarn_as_is: self.yarn_as_is,
            devices: self.devices.clone(),
            workers: self.workers.clone(),
        }
    }

    fn subject(&self, n_ctx: u32, printer: &Printer) -> Result<Subject> {
        let Some(shape) = self.shape else {
            let gguf = open::gguf(&self.model_args(n_ctx, 1, [None, None]), printer)?;
            let name = gguf.label().to_string();
            return Ok(Subject { gguf: Arc::new(gguf), name, projection: None });
        };
        let whole = shape.hparams();
        let n_layer = self.layers.unwrap_or(N_LAYER_DEFAULT);
        if n_layer > whole.n_layer {
            bail!("--layers {n_layer}: {} has {} layers", shape.name(), whole.n_layer);
        }
        let mix = self.quant.or_else(|| Mix::from_name(MIX_DEFAULT)).expect("the default is known");
        let name = format!("{} {}", shape.name(), mix.name);
        let synth = Synth::new(&whole, n_layer, mix);
        let bar = printer.progress(0, "making up weights");
        let gguf = synth.build(n_ctx, &mut |done, total| {
            bar.set_length(total);
            bar.set_position(done);
        });
        bar.finish_and_clear();
        let gguf = gguf?;
        printer.note(format!(
            "{name}: {n_layer} layers of random weights; ≈ marks what follows for all {}",
            whole.n_layer
        ));
        Ok(Subject { gguf: Arc::new(gguf), name, projection: Some(synth.projection()) })
    }
}

/// Refuses a context that was lowered (`--step-down`) below what the cases need.
fn check_ctx(n_ctx: usize, needed: usize) -> Result<()> {
    if n_ctx < needed {
        bail!(
            "the longest case needs a context of {needed} tokens, and {n_ctx} fit: measure shorter ones (-p, -n, \
             -d), or let something else be lowered, such as --step-down kv,layers"
        );
    }
    Ok(())
}

/// Measured before a file's weights take the memory, with as many threads as each engine will have.
fn bandwidths(threads: &[u32], weight_bytes: u64) -> Vec<f64> {
    let buffer = ReadBuffer::new(weight_bytes, memory_available());
    threads.iter().map(|&n_threads| buffer.gb_per_s(n_threads)).collect()
}

fn open_engine(
    subject: &Subject,
    (args, devices): (&ModelArgs, &DeviceOptions),
    say_warnings: bool,
    printer: &Printer,
) -> Result<Arc<Engine>> {
    let bar = printer.progress(0, "loading");
    let options = open::options(args, 1, devices.clone());
    let engine = Engine::open(subject.gguf.clone(), None, &options, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let engine = engine.map_err(|error| open::named(error, subject.name.clone()))?;
    if say_warnings {
        engine.warnings().iter().for_each(|warning| printer.warn(warning.to_string()));
        devices::say_fit(&engine, printer);
    }
    Ok(engine)
}

fn measure_engine(
    engine: &Arc<Engine>,
    subject: &Subject,
    plan: &Plan,
    machine_gb_per_s: f64,
    output: &mut Output<'_>,
) -> Result<()> {
    let [type_k, type_v] = engine.cache_types().map(|dtype| dtype.name());
    let (model, n_threads) = (subject.name.clone(), engine.n_threads());
    let n_batch = engine.n_batch();
    let on_gpu = engine.uses().iter().any(|used| !used.device.is_cpu() && used.weights > 0);
    let machine_gb_per_s = (!on_gpu).then_some(machine_gb_per_s);
    let n_gpu_layers = engine.fit().gpu_layers();
    let setup = Setup { model, n_threads, n_batch, type_k, type_v, n_gpu_layers, machine_gb_per_s };
    let n_layer = engine.hparams().n_layer;
    let n_bytes = engine.n_bytes_per_token();
    let (cases, n) = (plan.cases(), plan.n_repetitions);
    let bar = output.printer.progress((cases.len() * (n + 1)) as u64, "measuring");
    let mut bench = Bench::new(engine);
    for case in cases {
        let also_without_output = subject.projection.is_some();
        let seconds = bench.measure(case, n, also_without_output, &mut || bar.inc(1))?;
        output.row(&Row::new(&setup, case, &seconds.whole, (n_layer, false), n_bytes), &bar)?;
        if let Some(projection) = &subject.projection {
            let pairs = seconds.whole.iter().zip(&seconds.without_output);
            let seconds: Vec<f64> = pairs.map(|(&a, &b)| projection.seconds(a, b)).collect();
            let n_bytes = projection.n_bytes_per_pass(n_bytes);
            let row = Row::new(&setup, case, &seconds, (projection.n_layer, true), n_bytes);
            output.row(&row, &bar)?;
        }
    }
    bar.finish_and_clear();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Line::try_parse_from(["bench"].into_iter().chain(line.split_whitespace()))
            .map(|line| line.args)
    }

    #[test]
    fn the_defaults_are_llama_benchs() {
        let args = parse("").unwrap();
        let plan = args.plan().unwrap();
        let names: Vec<String> = plan.cases().iter().map(|case| case.name()).collect();
        assert_eq!((names, plan.n_repetitions), (vec!["pp512".into(), "tg128".into()], 5));
        assert_eq!((args.output, args.n_ctx(&plan).unwrap()), (Format::Md, 512));
        assert_eq!(args.cache_types(), [[None, None]]);
    }

    #[test]
    fn lists_take_commas_and_repetition_and_any_case() {
        let args = parse(
            "-t 1,2 -p 8 -p 16,0 -n 0 -d 0,100 -r 3 -o JSON --cache-type-k Q8_0,f16 \
             --cache-type-v F16",
        )
        .unwrap();
        assert_eq!(args.threads, [1, 2]);
        assert_eq!(args.plan().unwrap().cases().len(), 4);
        assert_eq!(args.n_ctx(&args.plan().unwrap()).unwrap(), 116);
        assert_eq!(args.output, Format::Json);
        let (q8_0, f16) = (Some(CacheType::Q8_0), Some(CacheType::F16));
        assert_eq!(args.cache_types(), [[q8_0, f16], [f16, f16]]);
    }

    #[test]
    fn shapes_and_quants_are_known_in_any_case() {
        let args = parse("--shape MEDIUM-3.5 --quant q4_k_M --layers 4").unwrap();
        assert_eq!((args.shape, args.layers), (Some(Shape::Medium35), Some(4)));
        assert_eq!(args.quant.map(|mix| mix.name), Some("Q4_K_M"));
        let error = parse("--shape medium-3.5 --quant Q9_K").unwrap_err().to_string();
        assert!(error.contains("IQ4_XS"), "{error}");
        for line in [
            "--layers 2",
            "--quant Q4_0",
            "--shape medium-3.5 --layers 1",
            "-m x.gguf --shape medium-3.5",
            "-r 0",
            "-t 0",
            "-p -1",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn what_cannot_be_measured_is_refused() {
        assert!(parse("-p 0 -n 0").unwrap().plan().is_err());
        let args = parse("-p 100 -d 50 --ctx 149").unwrap();
        let error = args.n_ctx(&args.plan().unwrap()).unwrap_err().to_string();
        assert!(error.contains("178") && error.contains("149"), "{error}");
        assert!(check_ctx(178, 178).is_ok());
        let error = check_ctx(177, 178).unwrap_err().to_string();
        assert!(error.contains("178") && error.contains("177"), "{error}");
    }
}
