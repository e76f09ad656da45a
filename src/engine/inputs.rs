//! What a pass's graph is given: tokens, where they stand, and what each may look at.

use crate::ggml::Ready;
use crate::model::{Hparams, TextInputs, TextShape};

use super::BatchRow;

/// f16 bits of 0 and −∞, the mask's two values.
const MASK_OPEN: u16 = 0;
const MASK_SHUT: u16 = 0xfc00;

/// Values of a pass's inputs, kept to be filled again.
#[derive(Debug, Default)]
pub(super) struct InputValues {
    tokens: Vec<i32>,
    positions: Vec<i32>,
    cells: Vec<i64>,
    mask: Vec<u16>,
    gathered: Vec<i32>,
    list_starts: Vec<i32>,
    list_cells: Vec<i32>,
    outputs: Vec<i32>,
    attn_scale: Vec<f32>,
    image_rows: Vec<f32>,
    image_places: Vec<i64>,
}

impl InputValues {
    /// Lays the rows out side by side: each token sees its own timeline up to itself.
    pub(super) fn fill(&mut self, hparams: &Hparams, rows: &[BatchRow<'_>], shape: TextShape) {
        let InputValues { tokens, positions, cells, mask, outputs, attn_scale, .. } = self;
        let (image_rows, image_places) = (&mut self.image_rows, &mut self.image_places);
        for list in [&mut *tokens, positions, outputs] {
            list.clear();
        }
        cells.clear();
        attn_scale.clear();
        image_rows.clear();
        image_places.clear();
        mask.clear();
        mask.resize(shape.n_kv * (shape.n_tokens - shape.lists.n_tokens), MASK_SHUT);
        let (list_starts, list_cells) = (&mut self.list_starts, &mut self.list_cells);
        list_starts.clear();
        list_cells.clear();
        list_starts.push(0);
        let gathered = &mut self.gathered;
        gathered.clear();
        for row in rows {
            let timeline = row.session.cells.as_slice();
            let n_past = row.session.tokens.len();
            for (i, image_row) in row.image_rows(hparams.n_embd as usize) {
                image_rows.extend_from_slice(image_row);
                image_places.push((tokens.len() + i) as i64);
            }
            let first_output = row.tokens.len() - row.n_logits;
            let first_gathered = gathered.len();
            if shape.is_gathered && tokens.len() >= shape.lists.n_tokens {
                gathered.extend(timeline.iter().map(|&cell| cell as i32));
            }
            for (i, &token) in row.tokens.iter().enumerate() {
                let position = n_past + i;
                match tokens.len().checked_sub(shape.lists.n_tokens) {
                    None => {
                        list_cells.extend(timeline[..=position].iter().map(|&cell| cell as i32));
                        list_starts.push(list_cells.len() as i32);
                    }
                    Some(n_before) => {
                        let line = &mut mask[n_before * shape.n_kv..][..shape.n_kv];
                        if shape.is_gathered {
                            line[first_gathered..=first_gathered + position].fill(MASK_OPEN);
                        } else {
                            let seen = &timeline[..=position];
                            seen.iter().for_each(|&cell| line[cell as usize] = MASK_OPEN);
                        }
                    }
                }
                if i >= first_output {
                    outputs.push(tokens.len() as i32);
                }
                tokens.push(token as i32);
                positions.push(position as i32);
                cells.push(i64::from(timeline[position]));
                if let Some(temperature) = hparams.attn_temperature {
                    attn_scale.push(temperature.scale_at(position as u32));
                }
            }
        }
        list_cells.resize(shape.lists.n_cells, 0);
        if let Some(&any) = gathered.first() {
            // A masked cell must hold numbers, so any that holds some.
            gathered.resize(shape.n_kv, any);
        }
    }

    /// Puts them where the graph reads them.
    pub(super) fn set(&self, ids: &TextInputs, ready: &mut Ready<'_>) {
        ready.set(ids.tokens, &self.tokens);
        ready.set(ids.positions, &self.positions);
        ready.set(ids.cells, &self.cells);
        if let Some(id) = ids.mask {
            ready.set(id, &self.mask);
        }
        if let Some(id) = ids.gathered {
            ready.set(id, &self.gathered);
        }
        if let Some([starts, cells]) = ids.lists {
            ready.set(starts, &self.list_starts);
            ready.set(cells, &self.list_cells);
        }
        if let Some(id) = ids.outputs {
            ready.set(id, &self.outputs);
        }
        if let Some(id) = ids.attn_scale {
            ready.set(id, &self.attn_scale);
        }
        if let Some(image) = ids.image {
            ready.set(image.rows, &self.image_rows);
            ready.set(image.places, &self.image_places);
        }
    }
}
