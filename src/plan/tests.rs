//! The search against a slower one that tries every run of layers.

mod cases;

use super::*;
use TensorType as T;

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

/// Numbers that are the same in each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// From `low` to `high`, both included.
    fn of(&mut self, low: u64, high: u64) -> u64 {
        low + (self.next() >> 11) % (high - low + 1)
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.of(1, 100) <= percent
    }
}

/// Working memory as graphs have it: something for any work, and more by context, batch and output.
#[derive(Debug, Clone)]
struct Working {
    base: u64,
    per_cell: u64,
    per_token: u64,
    output: u64,
}

impl Working {
    fn of(&self, layout: &Layout, n_rooms: usize) -> Vec<u64> {
        let cpu = n_rooms - 1;
        (0..n_rooms)
            .map(|room| {
                let has_layers = layout.layers.contains(&room);
                self.on(
                    has_layers,
                    layout.output == room,
                    room == cpu,
                    layout.n_ctx,
                    layout.n_batch,
                )
            })
            .collect()
    }

    fn on(&self, layers: bool, output: bool, cpu: bool, n_ctx: u32, n_batch: u32) -> u64 {
        let mut n = 0;
        if layers || output || cpu {
            n += self.base + self.per_token * u64::from(n_batch);
        }
        if layers {
            n += self.per_cell * u64::from(n_ctx);
        }
        n + if output { self.output } else { 0 }
    }
}

#[derive(Debug, Clone)]
struct Case {
    rooms: Vec<Room>,
    needs: Needs,
    wish: Wish,
    working: Working,
}

impl Case {
    fn random(random: &mut Random) -> Self {
        let n_layer = random.of(1, 24) as usize;
        let n_gpu = random.of(0, 6) as usize;
        let even = random.chance(50);
        let size = random.of(20 * MIB, 200 * MIB);
        let layers: Vec<u64> =
            (0..n_layer).map(|_| if even { size } else { random.of(size / 4, 2 * size) }).collect();
        let total: u64 = layers.iter().sum();
        let room = |random: &mut Random, name: String, kind| {
            let most = 4 * total / n_gpu.max(1) as u64;
            Room { name, kind, free: random.of(most / 20, most) }
        };
        let mut rooms: Vec<Room> =
            (0..n_gpu).map(|i| room(random, format!("GPU{i}"), RoomKind::Gpu)).collect();
        let free = random.of(total / 10, 6 * total);
        rooms.push(Room { name: "CPU".to_owned(), kind: RoomKind::Cpu, free });
        let wish = wish(random, n_layer, n_gpu);
        if random.chance(40) {
            share_memory(random, &mut rooms[..n_gpu], wish.tensor_split.is_some());
        }
        let working = Working {
            base: random.of(MIB, 30 * MIB),
            per_cell: random.of(0, 1 << 10),
            per_token: random.of(0, 100 << 10),
            output: random.of(0, 60 * MIB),
        };
        Case { rooms, needs: needs(random, layers), wish, working }
    }

    fn fit(&self) -> Result<Fit, Refusal> {
        let n_rooms = self.rooms.len();
        fit(&self.rooms, &self.needs, &self.wish, &mut |layout| self.working.of(layout, n_rooms))
    }
}

/// Makes one of `gpus` use the processor's memory: the first, or with proportions whichever.
fn share_memory(random: &mut Random, gpus: &mut [Room], in_any_order: bool) {
    let last = if in_any_order { gpus.len() as u64 - 1 } else { 0 };
    if let Some(room) = gpus.get_mut(random.of(0, last) as usize) {
        room.kind = RoomKind::SharedGpu;
    }
}

fn needs(random: &mut Random, layers: Vec<u64>) -> Needs {
    let size = layers[0];
    let vision = |random: &mut Random| {
        VisionNeeds::new(random.of(size / 2, 3 * size), random.of(0, 2 * size))
    };
    let pinned = match random.chance(10) {
        true => vec![random.of(0, size); 2],
        false => Vec::new(),
    };
    Needs {
        is_tied: random.chance(10),
        output: random.of(size / 10, 3 * size),
        embedding: random.of(0, 2 * size),
        pinned,
        kv_row: [1024, 32 * random.of(1, 32)],
        kv_head: [128, 32],
        vision: random.chance(40).then(|| vision(random)),
        draft: random
            .chance(20)
            .then(|| DraftNeeds { weights: size, n_layer: random.of(1, 2) as u32 }),
        layers,
    }
}

fn wish(random: &mut Random, n_layer: usize, n_gpu: usize) -> Wish {
    let types = [T::F16, T::Q8_0, T::Q4_0, T::F32];
    let split = |random: &mut Random| {
        let mut split: Vec<f32> = (0..n_gpu).map(|_| random.of(0, 3) as f32).collect();
        split[0] += 1.0;
        split
    };
    Wish {
        n_ctx: random.of(1, 70_000) as u32,
        cache_types: [0, 1].map(|_| types[random.of(0, 3) as usize]),
        n_batch: random.of(1, 1024) as u32,
        gpu_layers: random.chance(25).then(|| random.of(0, n_layer as u64 + 2) as u32),
        tensor_split: (n_gpu > 0 && random.chance(20)).then(|| split(random)),
        kv_offload: random.chance(80),
        vision_offload: random.chance(80),
        mmap: random.chance(80),
        step_down: StepDown {
            ctx: random.chance(70),
            kv: random.chance(50),
            batch: random.chance(50),
            layers: random.chance(60),
        },
    }
}

/// The same search in plain words: every run of layers, every room for output and tower.
struct Slow<'a>(&'a Case);

#[derive(Debug, Clone, Copy, PartialEq)]
struct Chosen {
    n_ctx: u32,
    types: [T; 2],
    n_batch: u32,
    n: usize,
    vision: bool,
}

impl Slow<'_> {
    fn row(&self, types: [T; 2]) -> u64 {
        let bytes = |i: usize| types[i].row_bytes(self.0.needs.kv_row[i]).unwrap();
        bytes(0) + bytes(1)
    }

    fn fits(&self, c: &Chosen, resident: bool) -> bool {
        let Case { rooms, needs, wish, working } = self.0;
        let n_gpu = rooms.len() - 1;
        let kv = self.row(c.types) * u64::from(c.n_ctx);
        let draft_kv = needs.draft.map_or(0, |d| kv * u64::from(d.n_layer));
        let (n_layer, n_on_gpu) = (needs.layers.len(), c.n.saturating_sub(1));
        let n_on_cpu = n_layer - n_on_gpu;
        let mut cpu = kv * (if wish.kv_offload { n_on_cpu } else { n_layer }) as u64;
        cpu += if c.n == 0 || !wish.kv_offload { draft_kv } else { 0 };
        let has_kv = cpu > 0;
        cpu += working.on(n_on_cpu > 0, c.n == 0, true, c.n_ctx, c.n_batch);
        let mut weights = needs.embedding + needs.pinned.get(n_gpu).unwrap_or(&0);
        weights += needs.layers[..n_on_cpu].iter().sum::<u64>();
        if c.n == 0 {
            weights += if needs.is_tied { 0 } else { needs.output };
            weights += needs.draft.map_or(0, |d| d.weights);
        }
        if !c.vision {
            cpu += needs.vision.map_or(0, |v| v.working);
            weights += needs.vision.map_or(0, |v| v.weights);
        }
        let towers = if c.vision { (0..n_gpu).map(Some).collect() } else { vec![None] };
        let least = towers.into_iter().filter_map(|tower| match c.n {
            0 => (0..n_gpu).map(|room| self.shared(c, room, &[], false, tower)).sum(),
            _ => (0..n_gpu).filter_map(|output| self.least_shared(c, output, tower)).min(),
        });
        least.min().is_some_and(|shared: u64| {
            let must_hold = !wish.mmap || (resident && (has_kv || shared > 0));
            cpu + shared + (if must_hold { weights } else { 0 }) <= rooms[n_gpu].free
        })
    }

    /// The least bytes on GPUs that share the processor's memory, over all runs that fit the GPUs.
    fn least_shared(&self, c: &Chosen, output: usize, tower: Option<usize>) -> Option<u64> {
        let needs = &self.0.needs;
        let (n_layer, n_gpu) = (needs.layers.len(), self.0.rooms.len() - 1);
        let wanted = c.n - 1;
        if let Some(split) = &self.0.wish.tensor_split {
            let (counts, last) = self.split(split, c.n);
            let mut at = n_layer - wanted;
            let rooms = (0..n_gpu).map(|room| {
                let layers = &needs.layers[at..at + counts[room]];
                at += counts[room];
                self.shared(c, room, layers, room == output, tower)
            });
            return if last == output { rooms.sum() } else { None };
        }
        // By the number of layers, from the last one, that rooms from the last one on have.
        let mut least = vec![None; wanted + 1];
        least[0] = Some(0);
        for room in (0..n_gpu).rev() {
            let mut next: Vec<Option<u64>> = vec![None; wanted + 1];
            for (from, before) in least.iter().enumerate() {
                let Some(before) = before else { continue };
                for (to, next) in next.iter_mut().enumerate().skip(from) {
                    let layers = &needs.layers[n_layer - to..n_layer - from];
                    let may = room <= output || layers.is_empty();
                    let here = self.shared(c, room, layers, room == output, tower);
                    match here.filter(|_| may) {
                        Some(n) => *next = Some(next.map_or(before + n, |old| old.min(before + n))),
                        None if layers.is_empty() => {}
                        None => break,
                    }
                }
            }
            least = next;
        }
        least[wanted]
    }

    fn split(&self, split: &[f32], n: usize) -> (Vec<usize>, usize) {
        let total: f32 = split.iter().sum();
        let ends: Vec<f32> =
            (1..=split.len()).map(|i| split[..i].iter().map(|x| x / total).sum()).collect();
        let room = |item: usize| {
            let place = item as f32 / n as f32;
            ends.iter().position(|&end| end > place).unwrap()
        };
        let mut counts = vec![0; split.len()];
        (0..n - 1).for_each(|item| counts[room(item)] += 1);
        (counts, room(n - 1))
    }

    /// Bytes that a room takes of the processor's memory; `None` where they do not fit the room.
    fn shared(
        &self,
        c: &Chosen,
        room: usize,
        layers: &[u64],
        output: bool,
        tower: Option<usize>,
    ) -> Option<u64> {
        let Case { needs, wish, working, rooms } = self.0;
        let kv = if wish.kv_offload { self.row(c.types) * u64::from(c.n_ctx) } else { 0 };
        let pinned = needs.pinned.get(room).copied().unwrap_or(0);
        let mut all = pinned + layers.iter().sum::<u64>() + kv * layers.len() as u64;
        all += working.on(!layers.is_empty(), output, false, c.n_ctx, c.n_batch);
        if output {
            let draft = needs.draft.map_or(0, |d| d.weights + kv * u64::from(d.n_layer));
            all += needs.output + draft;
        }
        if tower == Some(room) {
            all += needs.vision.map_or(0, |v| v.weights + v.working);
        }
        let is_shared = rooms[room].kind == RoomKind::SharedGpu;
        (all <= rooms[room].free).then_some(if is_shared { all } else { 0 })
    }

    /// The largest context up to the wished one.
    fn n_ctx(&self, c: &Chosen) -> Option<u32> {
        let wish = &self.0.wish;
        let floor = wish.n_ctx.min(N_CTX_FLOOR);
        let at = |n_ctx| self.fits(&Chosen { n_ctx, ..*c }, wish.step_down.ctx && n_ctx > floor);
        if at(wish.n_ctx) {
            return Some(wish.n_ctx);
        }
        if !wish.step_down.ctx || !at(floor) {
            return None;
        }
        let (mut low, mut high) = (floor / 256, wish.n_ctx.div_ceil(256));
        while high - low > 1 {
            let middle = (low + high) / 2;
            if at(middle * 256) { low = middle } else { high = middle }
        }
        Some((low * 256).max(floor))
    }

    fn choose(&self) -> Option<Chosen> {
        let Case { rooms, needs, wish, .. } = self.0;
        let (n_gpu, n_layer) = (rooms.len() - 1, needs.layers.len());
        let all = wish.gpu_layers.map_or(n_layer + 1, |n| (n as usize).min(n_layer + 1));
        let n = if n_gpu == 0 { 0 } else { all };
        let tower = wish.vision_offload && n_gpu > 0 && needs.vision.is_some();
        let lower = |ty: T| if matches!(ty, T::F16 | T::F32) { T::Q8_0 } else { ty };
        let mut rungs = vec![(wish.cache_types, wish.n_batch)];
        if wish.step_down.kv {
            rungs.push((wish.cache_types.map(lower), wish.n_batch));
        }
        let (types, mut n_batch) = *rungs.last().unwrap();
        while wish.step_down.batch && n_batch > 64 {
            n_batch = (n_batch / 2).max(64);
            rungs.push((types, n_batch));
        }
        let may_move = wish.step_down.layers;
        for vision in [true, false] {
            if vision != tower && !(tower && may_move) {
                continue;
            }
            for &(types, n_batch) in &rungs {
                let c = Chosen { n_ctx: wish.n_ctx, types, n_batch, n, vision };
                if let Some(n_ctx) = self.n_ctx(&c) {
                    return Some(Chosen { n_ctx, ..c });
                }
            }
        }
        if !may_move || n == 0 {
            return None;
        }
        let floor = wish.n_ctx.min(N_CTX_FLOOR);
        let n_ctx = if wish.step_down.ctx { floor } else { wish.n_ctx };
        let mut best: Option<Chosen> = None;
        for &(types, n_batch) in &rungs {
            if best.is_some() && n_batch != wish.n_batch {
                break;
            }
            let c = |n| Chosen { n_ctx, types, n_batch, n, vision: false };
            let most = (0..=n).rev().map(c).find(|c| self.fits(c, false));
            if most.is_some_and(|c| best.is_none_or(|best| best.n < c.n)) {
                best = most;
            }
        }
        let best = best?;
        Some(Chosen { n_ctx: self.n_ctx(&best)?, ..best })
    }
}

fn check(case: &Case, seed: u64) -> (usize, bool) {
    let slow = Slow(case).choose();
    let mut n_measured = 0;
    let n_rooms = case.rooms.len();
    let found = fit(&case.rooms, &case.needs, &case.wish, &mut |layout| {
        n_measured += 1;
        case.working.of(layout, n_rooms)
    });
    match (&found, slow) {
        (Ok(fit), Some(slow)) => {
            never_over(case, fit, seed);
            let layout = &fit.layout;
            let note = format!("seed {seed}: {slow:?}\n{fit:#?}\n{case:#?}");
            assert_eq!(layout.cache_types, slow.types, "{note}");
            assert_eq!(layout.n_batch, slow.n_batch, "{note}");
            assert_eq!(fit.gpu_layers(), slow.n, "{note}");
            assert_eq!(layout.n_ctx, slow.n_ctx, "{note}");
        }
        (Err(_), None) => {}
        (found, slow) => panic!("seed {seed}: {found:?}, but {slow:?}\n{case:#?}"),
    }
    if let Err(refusal) = &found {
        assert!(!refusal.to_string().is_empty());
    }
    (n_measured, found.is_ok())
}

fn never_over(case: &Case, fit: &Fit, seed: u64) {
    let note = format!("seed {seed}: {fit:#?}\n{case:#?}");
    let (layout, cpu) = (&fit.layout, case.rooms.len() - 1);
    let compute = case.working.of(layout, case.rooms.len());
    let row = Slow(case).row(layout.cache_types);
    let kv = row * u64::from(layout.n_ctx);
    for (room, used) in fit.rooms.iter().enumerate() {
        let free = case.rooms[room].free;
        assert_eq!(used.compute, compute[room], "{note}");
        if room != cpu {
            assert!(used.sum() <= free, "{note}");
            assert_eq!(used.free, free - used.sum(), "{note}");
        }
        let n = layout.layers.iter().filter(|&&r| r == room).count() as u64;
        let n_kv = match (case.wish.kv_offload, room == cpu) {
            (true, _) => n,
            (false, true) => layout.layers.len() as u64,
            (false, false) => 0,
        };
        assert_eq!(used.kv, kv * n_kv, "{note}");
    }
    let last = fit.rooms[cpu];
    let vision = case.needs.vision.filter(|_| layout.vision == cpu);
    let working = vision.map_or(0, |v| v.working);
    let draft_kv = last.draft.saturating_sub(match (layout.output == cpu, case.needs.draft) {
        (true, Some(draft)) => draft.weights,
        _ => 0,
    });
    let of_shared = |(room, used): (&Room, &RoomUse)| match room.kind {
        RoomKind::SharedGpu => used.sum(),
        RoomKind::Gpu | RoomKind::Cpu => 0,
    };
    let shared: u64 = case.rooms.iter().zip(&fit.rooms).map(of_shared).sum();
    let needed = match case.wish.mmap {
        true => last.kv + last.compute + working + draft_kv,
        false => last.sum(),
    };
    assert!(needed + shared <= case.rooms[cpu].free, "{note}");
    assert_eq!(fit.over_memory.is_some(), last.sum() + shared > case.rooms[cpu].free, "{note}");
    // The rooms' order is the layers'.
    let order: Vec<usize> =
        layout.layers.iter().map(|&r| if r == cpu { 0 } else { r + 1 }).collect();
    assert!(order.is_sorted(), "{note}");
    let on_gpu = order.last().is_some_and(|&last| last > 0);
    assert!(
        !on_gpu || (layout.output != cpu && order.iter().all(|&r| r <= layout.output + 1)),
        "{note}"
    );
}

#[test]
fn ten_thousand_machines_are_filled_as_well_as_can_be_and_never_over() {
    let (mut n_measured, mut most, mut n_fits) = (0, 0, 0);
    for seed in 1..=10_000u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (n, fits) = check(&Case::random(&mut random), seed);
        n_measured += n;
        most = most.max(n);
        n_fits += usize::from(fits);
    }
    assert!((3000..9000).contains(&n_fits), "{n_fits} cases fit");
    assert!(n_measured < 80_000 && most < 400, "{n_measured} measures, {most} for one machine");
}
