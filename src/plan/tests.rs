//! The search against a slower one that tries every run of layers, and single cases told by hand.

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
        let working = Working {
            base: random.of(MIB, 30 * MIB),
            per_cell: random.of(0, 1 << 10),
            per_token: random.of(0, 100 << 10),
            output: random.of(0, 60 * MIB),
        };
        Case { rooms, needs: needs(random, layers), wish: wish(random, n_layer, n_gpu), working }
    }

    fn fit(&self) -> Result<Fit, Refusal> {
        let n_rooms = self.rooms.len();
        fit(&self.rooms, &self.needs, &self.wish, &mut |layout| self.working.of(layout, n_rooms))
    }
}

fn needs(random: &mut Random, layers: Vec<u64>) -> Needs {
    let size = layers[0];
    let vision = |random: &mut Random| VisionNeeds {
        weights: random.of(size / 2, 3 * size),
        working: random.of(0, 2 * size),
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
        let resident = resident && cpu > 0;
        cpu += working.on(n_on_cpu > 0, c.n == 0, true, c.n_ctx, c.n_batch);
        let mut mapped = needs.embedding + needs.pinned.get(n_gpu).unwrap_or(&0);
        mapped += needs.layers[..n_on_cpu].iter().sum::<u64>();
        if c.n == 0 {
            mapped += if needs.is_tied { 0 } else { needs.output };
            mapped += needs.draft.map_or(0, |d| d.weights);
        }
        if !c.vision {
            cpu += needs.vision.map_or(0, |v| v.working);
            mapped += needs.vision.map_or(0, |v| v.weights);
        }
        if cpu + (if resident { mapped } else { 0 }) > rooms[n_gpu].free {
            return false;
        }
        let towers = if c.vision { (0..n_gpu).map(Some).collect() } else { vec![None] };
        towers.into_iter().any(|tower| match c.n {
            0 => (0..n_gpu).all(|room| self.room_fits(c, room, &[], false, tower)),
            _ => (0..n_gpu).any(|output| self.runs_fit(c, output, tower)),
        })
    }

    fn runs_fit(&self, c: &Chosen, output: usize, tower: Option<usize>) -> bool {
        let needs = &self.0.needs;
        let (n_layer, n_gpu) = (needs.layers.len(), self.0.rooms.len() - 1);
        let wanted = c.n - 1;
        if let Some(split) = &self.0.wish.tensor_split {
            let (counts, last) = self.split(split, c.n);
            let mut at = n_layer - wanted;
            return last == output
                && (0..n_gpu).all(|room| {
                    let layers = &needs.layers[at..at + counts[room]];
                    at += counts[room];
                    self.room_fits(c, room, layers, room == output, tower)
                });
        }
        // Numbers of layers, from the last one, that rooms from the last one on can hold.
        let mut reached = vec![false; wanted + 1];
        reached[0] = true;
        for room in (0..n_gpu).rev() {
            let mut next = vec![false; wanted + 1];
            for from in (0..=wanted).filter(|&from| reached[from]) {
                for (to, reached) in next.iter_mut().enumerate().skip(from) {
                    let layers = &needs.layers[n_layer - to..n_layer - from];
                    let may = room <= output || layers.is_empty();
                    if may && self.room_fits(c, room, layers, room == output, tower) {
                        *reached = true;
                    } else if !layers.is_empty() {
                        break;
                    }
                }
            }
            reached = next;
        }
        reached[wanted]
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

    fn room_fits(
        &self,
        c: &Chosen,
        room: usize,
        layers: &[u64],
        output: bool,
        tower: Option<usize>,
    ) -> bool {
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
        all <= rooms[room].free
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
    assert!(last.kv + last.compute + working + draft_kv <= case.rooms[cpu].free, "{note}");
    assert_eq!(fit.over_memory.is_some(), last.sum() > case.rooms[cpu].free, "{note}");
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

/// 88 layers of 0.78 GiB, as in a Q4_K_M of Medium 3.5, on GPUs of `memory` GiB.
fn medium(memory: &[u64]) -> Case {
    let room = |(i, gib): (usize, &u64)| Room {
        name: format!("CUDA{i}"),
        kind: RoomKind::Gpu,
        free: gib * GIB,
    };
    let mut rooms: Vec<Room> = memory.iter().enumerate().map(room).collect();
    rooms.push(Room { name: "CPU".to_owned(), kind: RoomKind::Cpu, free: 64 * GIB });
    let needs = Needs {
        layers: vec![812 * MIB; 88],
        output: 1260 * MIB,
        is_tied: false,
        embedding: 864 * MIB,
        pinned: Vec::new(),
        kv_row: [1024, 1024],
        kv_head: [128, 128],
        vision: None,
        draft: None,
    };
    let step_down = StepDown { ctx: true, kv: true, batch: true, layers: true };
    let wish = Wish {
        n_ctx: 262_144,
        cache_types: [T::F16; 2],
        n_batch: 512,
        gpu_layers: None,
        tensor_split: None,
        kv_offload: true,
        vision_offload: true,
        step_down,
    };
    let working = Working { base: 300 * MIB, per_cell: 1024, per_token: 0, output: 256 * MIB };
    Case { rooms, needs, wish, working }
}

#[test]
fn the_context_is_lowered_first() {
    let fit = medium(&[76]).fit().unwrap();
    assert_eq!(fit.gpu_layers(), 89);
    assert_eq!(fit.layout.cache_types, [T::F16; 2]);
    let n_ctx = fit.layout.n_ctx;
    assert_eq!(fit.steps, [Step::Ctx { from: 262_144, to: n_ctx }]);
    assert!((13_000..15_000).contains(&n_ctx) && n_ctx.is_multiple_of(256), "{n_ctx}");
    let one_more = 256 * (1024 + 88 * 4096);
    assert!(fit.rooms[0].free < one_more, "{}", fit.rooms[0].free);
    assert_eq!((fit.rooms[1].weights, fit.rooms[1].kv), (864 * MIB, 0));
}

#[test]
fn then_the_cache_and_then_layers() {
    let mut case = medium(&[0]);
    case.rooms[0].free = 72 * GIB + 700 * MIB;
    let fit = case.fit().unwrap();
    assert_eq!(fit.layout.cache_types, [T::Q8_0; 2]);
    assert!(
        matches!(fit.steps[..], [Step::Ctx { .. }, Step::CacheTypes { .. }]),
        "{:?}",
        fit.steps
    );

    // Heads that q8_0's blocks do not divide stay as they are.
    let heads = Needs { kv_head: [80, 80], ..case.needs.clone() };
    let fit = Case { needs: heads, ..case.clone() }.fit().unwrap();
    assert_eq!(fit.layout.cache_types, [T::F16; 2]);

    case.rooms[0].free = 24 * GIB;
    let fit = case.fit().unwrap();
    let n = fit.gpu_layers();
    let [Step::Ctx { to, .. }, Step::Layers { from: 89, to: 28 }] = fit.steps[..] else {
        panic!("{:?}", fit.steps);
    };
    // What a layer less would leave goes to the context.
    assert!((n, to > N_CTX_FLOOR) == (28, true) && fit.rooms[0].free < 812 * MIB, "{fit:?}");
    assert_eq!(fit.layout.layers.iter().filter(|&&room| room == 0).count(), 27);
    assert_eq!((fit.layout.layers[87], fit.layout.output), (0, 0));
    assert_eq!(fit.over_memory, None);

    case.rooms[1].free = 8 * GIB;
    let over = case.fit().unwrap();
    assert_eq!(over.gpu_layers(), 28);
    assert_eq!(over.layout.n_ctx, N_CTX_FLOOR);
    assert!(over.over_memory.is_some_and(|n| n > 40 * GIB));
}

#[test]
fn gpus_are_filled_to_the_same_share() {
    let mut case = medium(&[96, 24, 48]);
    case.wish.n_ctx = 16_384;
    let fit = case.fit().unwrap();
    assert_eq!(fit.steps, []);
    let share = |i: usize| fit.rooms[i].sum() as f64 / case.rooms[i].free as f64;
    let shares = [0, 1, 2].map(share);
    let layer = 876.0 / 1024.0 / 24.0;
    assert!(shares.iter().all(|share| (share - shares[0]).abs() < layer), "{shares:?}");

    case.wish.tensor_split = Some(vec![3.0, 0.0, 1.0]);
    let fit = case.fit().unwrap();
    let count = |room| fit.layout.layers.iter().filter(|&&r| r == room).count();
    assert_eq!([0, 1, 2, 3].map(count), [67, 0, 21, 0]);
    assert_eq!(fit.layout.output, 2);
}

#[test]
fn a_number_of_layers_is_the_last_layers_with_the_output_as_one_more() {
    let mut case = medium(&[48, 48]);
    case.rooms[2].free = 96 * GIB;
    case.wish.n_ctx = 8192;
    for (n, counts, output) in [(0, [0, 0, 88], 2), (1, [0, 0, 88], 1), (2, [0, 1, 87], 1)] {
        case.wish.gpu_layers = Some(n);
        let fit = case.fit().unwrap();
        let count = |room| fit.layout.layers.iter().filter(|&&r| r == room).count();
        let found = [0, 1, 2].map(count);
        // Even rooms share what there is; here only the whole matters.
        assert_eq!((found[0] + found[1], found[2]), (counts[0] + counts[1], counts[2]), "{n}");
        assert_eq!((fit.layout.output, fit.steps.len()), (output, 0), "{n}");
    }
    case.wish.gpu_layers = Some(89);
    assert_eq!(case.fit().unwrap().gpu_layers(), 89);
}

#[test]
fn the_tower_goes_where_all_layers_fit_beside_it() {
    let mut case = medium(&[48, 48]);
    case.needs.vision = Some(VisionNeeds { weights: 5 * GIB, working: GIB });
    case.wish.n_ctx = 16_384;
    let fit = case.fit().unwrap();
    let shares = [0, 1].map(|i| fit.rooms[i].sum());
    assert!(fit.layout.vision < 2 && shares[0].abs_diff(shares[1]) < GIB, "{fit:?}");
    assert_eq!(fit.rooms[fit.layout.vision].vision, 6 * GIB);
    // It leaves before any layer does.
    case.rooms.remove(0);
    case.rooms[0].free = 73 * GIB;
    let fit = case.fit().unwrap();
    assert_eq!((fit.layout.vision, fit.gpu_layers()), (1, 89));
    assert!(fit.steps.contains(&Step::Vision), "{:?}", fit.steps);
}

#[test]
fn without_gpus_the_context_is_what_fits_beside_the_weights() {
    let mut case = medium(&[]);
    let weights = 88 * 812 * MIB + (1260 + 864) * MIB;
    case.rooms[0].free = weights + 12 * GIB;
    let fit = case.fit().unwrap();
    assert!((33_000..36_000).contains(&fit.layout.n_ctx), "{}", fit.layout.n_ctx);
    assert_eq!((fit.over_memory, fit.gpu_layers()), (None, 0));
    case.rooms[0].free = 32 * GIB;
    let fit = case.fit().unwrap();
    assert_eq!((fit.layout.n_ctx, fit.over_memory.is_some()), (N_CTX_FLOOR, true));
    case.wish.n_ctx = 2048;
    assert_eq!(case.fit().unwrap().layout.n_ctx, 2048);
    // A fixed context needs no more than its cache.
    case.wish = Wish { n_ctx: 65_536, step_down: StepDown::default(), ..case.wish };
    assert_eq!(case.fit().unwrap().layout.n_ctx, 65_536);
    case.wish.n_ctx = 131_072;
    let text = case.fit().unwrap_err().to_string();
    assert!(text.contains("CPU needs 44.7 GiB of 32.0 free; --ctx 93440 would fit"), "{text}");
    assert!(text.contains("--cache-type-k q8_0 --cache-type-v q8_0 would fit at this"), "{text}");
}

#[test]
fn a_refusal_names_rooms_and_flags_that_would_help() {
    let mut case = medium(&[48, 40]);
    case.wish = Wish { n_ctx: 65_536, step_down: StepDown::default(), ..case.wish };
    let refusal = case.fit().unwrap_err();
    let text = refusal.to_string();
    let Refusal::Memory(Shortage { hints, rooms, .. }) = refusal else { panic!("{text}") };
    assert!(rooms.len() == 2 && rooms.iter().all(|room| room.needed > room.free), "{text}");
    for hint in hints {
        let mut wish = case.wish.clone();
        match hint {
            Hint::Ctx(n) => wish.n_ctx = n,
            Hint::CacheTypes => wish.cache_types = [T::Q8_0; 2],
            Hint::GpuLayers(n) => wish.gpu_layers = Some(n as u32),
            hint => panic!("{hint} in {text}"),
        }
        let helped = Case { wish, ..case.clone() };
        assert!(helped.fit().is_ok(), "{hint} in {text}");
    }
    for part in ["CUDA0 needs", "CUDA1 needs", "GiB of 48.0 free", "--ctx 4", "--gpu-layers 8"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    case.wish.tensor_split = Some(vec![1.0, 1.0, 1.0]);
    let text = case.fit().unwrap_err().to_string();
    assert!(text.starts_with("--tensor-split 1,1,1: "), "{text}");
    for split in [vec![], vec![0.0, 0.0], vec![-1.0, 2.0], vec![f32::NAN, 1.0]] {
        case.wish.tensor_split = Some(split);
        assert!(matches!(case.fit(), Err(Refusal::Split { .. })));
    }
    case.wish.tensor_split = Some(vec![0.0, 1.0]);
    let Err(Refusal::Memory(shortage)) = case.fit() else { panic!("40 GiB are too few") };
    assert!(shortage.rooms[0].needed == 0 && shortage.rooms[1].needed > 90 * GIB);
    assert!(matches!(shortage.hints[..], [Hint::GpuLayers(_)]), "{shortage:?}");
}

/// A measure that knows no roles: more layers on a room need more working memory there.
#[test]
fn a_plan_is_measured_as_it_is_before_it_is_used() {
    let case = medium(&[48, 48]);
    let mut wish = case.wish.clone();
    for n_ctx in [8192, 30_000, 65_536] {
        wish.n_ctx = n_ctx;
        let mut measure = |layout: &Layout| {
            let n = |room| layout.layers.iter().filter(|&&r| r == room).count() as u64;
            vec![n(0) * 40 * MIB, n(1) * 10 * MIB, 0]
        };
        let fit = fit(&case.rooms, &case.needs, &wish, &mut measure).unwrap();
        assert!((0..2).all(|i| fit.rooms[i].sum() <= case.rooms[i].free), "{fit:?}");
        assert_eq!(fit.rooms[0].compute, measure(&fit.layout)[0]);
    }
}
