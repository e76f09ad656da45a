//! ggml's stream of requests, cut where they end, so that weights are found in it.
//!
//! A request is `command u8 | size u64 | payload`, in the machine's byte order. Only one kind matters here:
//! that which sets a tensor, whose payload is `description of the tensor | flag u8 | offset u64 | data`.

/// `command | size`.
pub(super) const HEAD: usize = 1 + 8;
/// The command that sets a tensor (`RPC_CMD_SET_TENSOR`).
const SET_TENSOR: u8 = 6;
/// Bytes of a payload before the tensor's data: `rpc_tensor`, flag and offset.
const BEFORE_DATA: usize = 296 + 1 + 8;
/// Bytes of such a request before the data.
pub(super) const BEFORE_WEIGHTS: usize = HEAD + BEFORE_DATA;
/// Data worth a hash, and how much of it may come in one request.
pub(super) const WEIGHTS: std::ops::RangeInclusive<usize> = 4 << 10..=16 << 20;

/// The data's length, if `head` begins a request that sets a tensor to data of a fitting length.
pub(super) fn n_weights(head: &[u8]) -> Option<usize> {
    let (&command, rest) = head.split_first()?;
    let size = u64::from_ne_bytes(*rest.first_chunk()?);
    let n = usize::try_from(size).ok()?.checked_sub(BEFORE_DATA)?;
    (command == SET_TENSOR && WEIGHTS.contains(&n)).then_some(n)
}

/// What bytes of the stream are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part<'a> {
    /// To be passed on.
    Plain(&'a [u8]),
    /// A whole request that sets a tensor: what comes before the data, and the data.
    Weights(&'a [u8], &'a [u8]),
}

/// Cuts the stream.
#[derive(Debug, Default)]
pub(super) struct Requests {
    head: Vec<u8>,
    /// What is left of the payload; `None` while the head is gathered.
    left: Option<usize>,
    /// A request that is kept until it is whole.
    whole: Option<Vec<u8>>,
}

impl Requests {
    /// Takes the next bytes; `is_loading` tells whether tensors that are set are weights.
    pub(super) fn take<E>(
        &mut self,
        mut bytes: &[u8],
        is_loading: bool,
        mut pass: impl FnMut(Part<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        while !bytes.is_empty() {
            let Some(left) = self.left else {
                let n = bytes.len().min(HEAD - self.head.len());
                self.head.extend_from_slice(&bytes[..n]);
                bytes = &bytes[n..];
                if self.head.len() == HEAD {
                    self.begin(is_loading, &mut pass)?;
                }
                continue;
            };
            let n = bytes.len().min(left);
            match &mut self.whole {
                Some(whole) => whole.extend_from_slice(&bytes[..n]),
                None => pass(Part::Plain(&bytes[..n]))?,
            }
            bytes = &bytes[n..];
            self.left = Some(left - n);
            if left == n {
                self.end(&mut pass)?;
            }
        }
        Ok(())
    }

    /// The head is there.
    fn begin<E>(
        &mut self,
        is_loading: bool,
        pass: &mut impl FnMut(Part<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let size = self.head[1..].first_chunk().map_or(0, |size| u64::from_ne_bytes(*size));
        self.left = Some(size as usize);
        match n_weights(&self.head).filter(|_| is_loading) {
            Some(n) => {
                let mut whole = Vec::with_capacity(BEFORE_WEIGHTS + n);
                whole.extend_from_slice(&self.head);
                self.whole = Some(whole);
            }
            None => pass(Part::Plain(&self.head))?,
        }
        if size == 0 { self.end(pass) } else { Ok(()) }
    }

    /// The payload is there.
    fn end<E>(&mut self, pass: &mut impl FnMut(Part<'_>) -> Result<(), E>) -> Result<(), E> {
        (self.left, self.head) = (None, Vec::with_capacity(HEAD));
        match self.whole.take() {
            Some(whole) => {
                let (before, data) = whole.split_at(BEFORE_WEIGHTS);
                pass(Part::Weights(before, data))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(command: u8, payload: &[u8]) -> Vec<u8> {
        [&[command][..], &(payload.len() as u64).to_ne_bytes(), payload].concat()
    }

    /// Plain bytes and weights, as they come out when the stream comes in pieces of `n`.
    fn cut(stream: &[u8], n: usize, is_loading: bool) -> (Vec<u8>, Vec<(usize, Vec<u8>)>) {
        let mut requests = Requests::default();
        let (mut plain, mut weights) = (Vec::new(), Vec::new());
        for piece in stream.chunks(n) {
            requests
                .take(piece, is_loading, |part| {
                    match part {
                        Part::Plain(bytes) => plain.extend_from_slice(bytes),
                        Part::Weights(before, data) => weights.push((before.len(), data.to_vec())),
                    }
                    Ok::<_, ()>(())
                })
                .unwrap();
        }
        (plain, weights)
    }

    #[test]
    fn weights_are_found_wherever_the_stream_is_cut() {
        let data: Vec<u8> = (0..5000).map(|i| (i % 251) as u8).collect();
        let set = request(SET_TENSOR, &[&vec![7; BEFORE_DATA][..], &data].concat());
        let small = request(SET_TENSOR, &vec![8; BEFORE_DATA + 100]);
        let others = [request(14, &[1; 24]), request(15, &[]), request(10, &vec![9; 9000])];
        let stream = [&others[0][..], &set, &others[1], &set, &small, &others[2]].concat();
        let plain = [&others[0][..], &others[1], &small, &others[2]].concat();
        for n in [1, 2, 9, 10, 313, 314, 315, 4096, stream.len()] {
            let found = cut(&stream, n, true);
            assert_eq!(found.0, plain, "in pieces of {n}");
            assert_eq!(found.1, vec![(BEFORE_WEIGHTS, data.clone()); 2], "in pieces of {n}");
            assert_eq!(cut(&stream, n, false), (stream.clone(), Vec::new()));
        }
    }
}
