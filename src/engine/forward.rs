//! One forward pass over rows of several sessions.

use crate::ggml::{GgmlError, PIECE, Scheduler};
use crate::model::{InputSums, KvCache, ListShape, TextGraph, TextShape};
use crate::tokenizer::TokenId;

use super::inputs::InputValues;
use super::{Engine, Error, ImageRows, Session};

/// Most pieces that lists of cells are cut into: each takes memory for a result of all heads.
pub(super) const MAX_PIECES: usize = 4096;

/// Room for cells that are copied together is a multiple of this, as kernels like it.
const GATHER_STEP: usize = 256;

/// So many tokens have to look at the cells that are copied: one reads them hardly faster than it looks past
/// the others.
const MIN_GATHERING: usize = 16;

/// Most bytes of a layer's K and V that are copied together.
const MAX_GATHERED: usize = 128 << 20;

/// Least room for listed cells.
const MIN_LISTED: usize = 1024;

/// New tokens of one session.
#[derive(Debug)]
pub struct BatchRow<'a> {
    /// The timeline that they continue.
    pub session: &'a mut Session,
    /// At least one; all rows together at most [`Engine::n_batch`].
    pub tokens: &'a [TokenId],
    /// The pictures that some of the tokens stand for, wholly or in part; others are of no effect.
    pub images: &'a [ImageRows],
    /// How many of the last tokens want logits: 0 only fills the cache.
    pub n_logits: usize,
}

impl BatchRow<'_> {
    /// Index of each token that stands for a piece of a picture, and what takes its place.
    pub(super) fn image_rows(&self, n_embd: usize) -> impl Iterator<Item = (usize, &[f32])> {
        let n_past = self.session.tokens.len();
        let row_at = move |image: &'_ ImageRows, i| image.mark.row_at(n_past + i);
        (0..self.tokens.len()).filter_map(move |i| {
            let rows = |image| row_at(image, i).map(|row| &image.rows[row * n_embd..][..n_embd]);
            self.images.iter().find_map(rows).map(|row| (i, row))
        })
    }

    /// Cells that were taken for the tokens.
    fn new_cells(&self) -> &[u32] {
        &self.session.cells.as_slice()[self.session.tokens.len()..]
    }

    /// Makes the timeline remember what has been computed.
    fn commit(&mut self) {
        let n_past = self.session.tokens.len();
        self.session.tokens.extend_from_slice(self.tokens);
        let new = n_past..self.session.tokens.len();
        let marks = self.images.iter().map(|image| image.mark);
        self.session.images.extend(marks.filter(|mark| new.contains(&mark.start)));
    }
}

/// Σ x² over the tokens of a pass, for each column of a matrix's input.
#[derive(Debug, Clone, PartialEq)]
pub struct ColumnSums {
    /// The matrices with this input, by their names in the file.
    pub matrices: Vec<String>,
    /// As many as the matrices have columns.
    pub squares: Vec<f32>,
}

/// What a pass computes for its caller.
#[derive(Debug)]
enum Wanted<'a> {
    /// Appended.
    Logits(&'a mut Vec<f32>),
    /// Appended.
    Sums(InputSums, &'a mut Vec<ColumnSums>),
}

/// What forward passes need and only one of them can have at a time.
#[derive(Debug)]
pub(super) struct Runtime {
    pub(super) sched: Scheduler,
    pub(super) kv: KvCache,
    /// The graph that ran last; reused when the next batch has its shape.
    pub(super) graph: Option<TextGraph>,
    inputs: InputValues,
}

impl Runtime {
    pub(super) fn new(sched: Scheduler, kv: KvCache) -> Self {
        Runtime { sched, kv, graph: None, inputs: InputValues::default() }
    }
}

impl Engine {
    /// Runs the rows in one pass and appends the wanted logits to `logits`: in the order of rows and
    /// tokens, `n_vocab` values each.
    ///
    /// On an error no session has changed. Only one pass runs at a time; others wait.
    pub fn forward(&self, rows: &mut [BatchRow<'_>], logits: &mut Vec<f32>) -> Result<(), Error> {
        self.pass(rows, Wanted::Logits(logits))
    }

    /// Runs the rows, which want no logits, in one pass and returns sums over what each matrix's input
    /// was, from the first layer to the last; that of the output matrix comes last, if it is wanted.
    ///
    /// On an error no session has changed.
    pub fn column_sums(
        &self,
        rows: &mut [BatchRow<'_>],
        with_output: bool,
    ) -> Result<Vec<ColumnSums>, Error> {
        assert!(rows.iter().all(|row| row.n_logits == 0), "sums leave out the last matrices");
        let mut sums = Vec::new();
        let which = if with_output { InputSums::LayersAndOutput } else { InputSums::Layers };
        self.pass(rows, Wanted::Sums(which, &mut sums))?;
        Ok(sums)
    }

    fn pass(&self, rows: &mut [BatchRow<'_>], wanted: Wanted<'_>) -> Result<(), Error> {
        self.check(rows)?;
        let mut runtime = self.runtime.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        self.take_cells(rows)?;
        let done = self.run(&mut runtime, rows, wanted);
        match done {
            Ok(()) => {
                rows.iter_mut().for_each(BatchRow::commit);
            }
            Err(_) => {
                // A broken pass leaves in them what others must not see, not even through the mask.
                let new = rows.iter().flat_map(BatchRow::new_cells);
                runtime.kv.clear(new.map(|&cell| cell as usize));
                self.return_cells(rows);
            }
        }
        done
    }

    fn check(&self, rows: &[BatchRow<'_>]) -> Result<(), Error> {
        let n_tokens: usize = rows.iter().map(|row| row.tokens.len()).sum();
        let n_batch = self.n_batch;
        assert!((1..=n_batch).contains(&n_tokens), "a batch has 1 to {n_batch} tokens");
        for row in rows {
            assert!(!row.tokens.is_empty() && row.n_logits <= row.tokens.len(), "{row:?}");
        }
        let n_vocab = self.hparams.n_vocab as usize;
        match rows.iter().flat_map(|row| row.tokens).find(|&&id| id as usize >= n_vocab) {
            Some(&id) => Err(Error::TokenId { id, n_vocab }),
            None => Ok(()),
        }
    }

    fn take_cells(&self, rows: &mut [BatchRow<'_>]) -> Result<(), Error> {
        let mut pool = self.cells();
        let mut n_others: usize = rows.iter().map(|row| row.tokens.len()).sum();
        for i in 0..rows.len() {
            let n = rows[i].tokens.len();
            n_others -= n;
            if !pool.extend(&mut rows[i].session.cells, n, n_others) {
                let n_tokens = rows[i].session.tokens.len() + n;
                let images = rows[i].session.images.iter();
                let n_image_tokens = images.map(|mark| mark.grid.n_tokens()).sum();
                for row in &mut rows[..i] {
                    let n_before = row.session.tokens.len();
                    pool.truncate(&mut row.session.cells, n_before);
                }
                return Err(Error::ContextFull { n_tokens, n_image_tokens, n_ctx: self.n_ctx });
            }
        }
        Ok(())
    }

    fn return_cells(&self, rows: &mut [BatchRow<'_>]) {
        let mut pool = self.cells();
        for row in rows {
            let n_before = row.session.tokens.len();
            pool.truncate(&mut row.session.cells, n_before);
        }
    }

    fn run(
        &self,
        runtime: &mut Runtime,
        rows: &[BatchRow<'_>],
        mut wanted: Wanted<'_>,
    ) -> Result<(), Error> {
        let Runtime { sched, kv, graph, inputs } = runtime;
        let n_embd = self.hparams.n_embd as usize;
        let sums = match wanted {
            Wanted::Logits(_) => InputSums::Nothing,
            Wanted::Sums(which, _) => which,
        };
        let lists = match sums {
            InputSums::Nothing => self.list_shape(kv, rows),
            // Statistics are over whole windows of a text.
            InputSums::Layers | InputSums::LayersAndOutput => ListShape::default(),
        };
        let view = |rows: &[BatchRow<'_>]| {
            let last = rows.iter().flat_map(|row| row.session.cells.as_slice()).max();
            kv.view_for(last.map_or(0, |&cell| cell as usize))
        };
        let n_viewed = view(&rows[lists.n_tokens..]);
        let n_gathered = self.n_gathered(kv, &rows[lists.n_tokens..], n_viewed);
        let shape = TextShape {
            n_tokens: rows.iter().map(|row| row.tokens.len()).sum(),
            n_kv: n_gathered.unwrap_or(n_viewed),
            is_gathered: n_gathered.is_some(),
            lists,
            n_outputs: rows.iter().map(|row| row.n_logits).sum(),
            n_image_rows: rows.iter().map(|row| row.image_rows(n_embd).count()).sum(),
            sums,
        };
        // Before anything is written, and for all rows: a later view must not find cells that it has to zero
        // among those that listed tokens have filled.
        kv.zero_below(view(rows));
        let repeats = |text: &TextGraph| text.shape == shape && sched.can_repeat(&text.graph);
        if !graph.as_ref().is_some_and(repeats) {
            *graph = Some(TextGraph::build(&self.hparams, &self.weights, kv, shape));
        }
        let text = graph.as_mut().expect("it was built above");
        inputs.fill(&self.hparams, rows, shape);
        let n_before = wanted.len();
        let done = compute(text, sched, inputs, &mut wanted);
        if done.is_err() {
            // Its place in the working memory may be half planned.
            *graph = None;
        }
        match done {
            Err(GgmlError::Cancelled) => {
                self.lower_cancel();
                Err(Error::Cancelled)
            }
            Err(error) => Err(error.into()),
            Ok(()) if wanted.finite_from(n_before, self.hparams.n_vocab as usize) => Ok(()),
            Ok(()) => Err(Error::NotFinite),
        }
    }

    /// The rows at the beginning that have one token each, if their cells can be listed.
    fn list_shape(&self, kv: &KvCache, rows: &[BatchRow<'_>]) -> ListShape {
        let listed = rows.iter().take_while(|row| row.tokens.len() == 1);
        let lengths = || listed.clone().map(|row| row.session.cells.as_slice().len());
        let n_pieces: usize = lengths().map(|n| n.div_ceil(PIECE)).sum();
        if !kv.can_list(&self.hparams) || !(1..=MAX_PIECES).contains(&n_pieces) {
            return ListShape::default();
        }
        lists(lengths().count(), lengths().sum(), n_pieces)
    }

    /// How many cells are copied together for rows that look at theirs under a mask; `None` where they had
    /// better look at the first `n_viewed` of the cache. What other sessions have in there would cost a prompt
    /// as much as its own past.
    fn n_gathered(&self, kv: &KvCache, rows: &[BatchRow<'_>], n_viewed: usize) -> Option<usize> {
        let n: usize = rows.iter().map(|row| row.session.cells.as_slice().len()).sum();
        let n = n.next_multiple_of(GATHER_STEP);
        let n_tokens: usize = rows.iter().map(|row| row.tokens.len()).sum();
        let pays = n_tokens >= MIN_GATHERING && 2 * n <= n_viewed && n <= max_gathered(kv);
        pays.then_some(n)
    }
}

/// Most cells of `kv` that are copied together.
pub(super) fn max_gathered(kv: &KvCache) -> usize {
    let n = (MAX_GATHERED / kv.n_bytes_per_cell()).min(kv.n_cells() / 2);
    if kv.can_gather() { n / GATHER_STEP * GATHER_STEP } else { 0 }
}

/// Room for lists of so many cells in so many pieces: powers of two, so that one graph serves many steps.
pub(super) fn lists(n_tokens: usize, n_cells: usize, n_pieces: usize) -> ListShape {
    ListShape {
        n_tokens,
        n_cells: n_cells.next_power_of_two().max(MIN_LISTED),
        n_pieces: n_pieces.next_power_of_two(),
    }
}

fn compute(
    text: &mut TextGraph,
    sched: &mut Scheduler,
    values: &InputValues,
    wanted: &mut Wanted<'_>,
) -> Result<(), GgmlError> {
    let mut ready = sched.ready(&mut text.graph)?;
    values.set(&text.inputs, &mut ready);
    let computed = ready.compute()?;
    match wanted {
        Wanted::Logits(logits) => {
            if let Some(output) = text.logits {
                computed.read(output, logits);
            }
        }
        Wanted::Sums(_, sums) => sums.extend(text.sums.iter().map(|sum| {
            let mut squares = Vec::new();
            computed.read(sum.squares, &mut squares);
            ColumnSums { matrices: sum.matrices.clone(), squares }
        })),
    }
    Ok(())
}

impl Wanted<'_> {
    fn len(&self) -> usize {
        match self {
            Wanted::Logits(logits) => logits.len(),
            Wanted::Sums(_, sums) => sums.len(),
        }
    }

    /// Whether what came after the first `n` makes sense: a number among each token's logits, and
    /// nothing but numbers among sums.
    fn finite_from(&self, n: usize, n_vocab: usize) -> bool {
        match self {
            Wanted::Logits(logits) => logits[n..].chunks(n_vocab).all(is_distribution),
            Wanted::Sums(_, sums) => {
                sums[n..].iter().all(|sum| sum.squares.iter().all(|x| x.is_finite()))
            }
        }
    }
}

/// Whether probabilities can be made of a token's logits: numbers below infinity, one of them at least finite.
fn is_distribution(logits: &[f32]) -> bool {
    logits.iter().all(|&logit| logit < f32::INFINITY) && logits.iter().any(|x| x.is_finite())
}
