//! Single cases, told by hand.

use super::*;

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
        mmap: true,
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
    case.needs.vision = Some(VisionNeeds::new(5 * GIB, GIB));
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

#[test]
fn memory_that_a_gpu_shares_is_there_once() {
    let mut case = medium(&[90]);
    case.rooms[0].kind = RoomKind::SharedGpu;
    case.rooms[1].free = 90 * GIB;
    case.wish = Wish { n_ctx: 16_384, step_down: StepDown::default(), ..case.wish };
    let fit = case.fit().unwrap();
    assert_eq!((fit.gpu_layers(), fit.over_memory), (89, None));
    // What the one has the other has not.
    let [gpu, cpu] = [fit.rooms[0], fit.rooms[1]];
    assert_eq!(gpu.free, 90 * GIB - gpu.sum());
    assert_eq!(cpu.free, 90 * GIB - gpu.sum() - cpu.sum());

    case.rooms[1].free = 60 * GIB;
    let refusal = case.fit().unwrap_err();
    let text = refusal.to_string();
    assert!(text.contains("CPU with CUDA0 needs 77.") && text.contains("of 60.0 free"), "{text}");
    let Refusal::Memory(Shortage { hints, .. }) = refusal else { panic!("{text}") };
    let Some(Hint::GpuLayers(n)) = hints.last() else { panic!("{text}") };
    // Mapped weights of the processor's own need no room.
    case.wish.gpu_layers = Some(*n as u32);
    assert!(case.fit().is_ok_and(|fit| fit.over_memory.is_some()), "{text}");
    case.wish.gpu_layers = Some(*n as u32 + 1);
    assert!(case.fit().is_err(), "{text}");
}

#[test]
fn gpus_with_memory_of_their_own_are_filled_before_one_that_shares() {
    let mut case = medium(&[90, 48]);
    case.rooms[0].kind = RoomKind::SharedGpu;
    case.wish = Wish { n_ctx: 16_384, step_down: StepDown::default(), ..case.wish };
    for gib in [40, 36] {
        case.rooms[2].free = gib * GIB;
        let fit = case.fit().unwrap();
        assert_eq!((fit.gpu_layers(), fit.over_memory), (89, None));
        assert!(fit.rooms[0].sum() + fit.rooms[2].kv + fit.rooms[2].compute <= gib * GIB);
    }
    case.rooms[2].free = 28 * GIB;
    assert!(case.fit().is_err());
}

#[test]
fn weights_that_are_copied_have_to_fit() {
    let mut case = medium(&[]);
    case.wish = Wish { n_ctx: 4096, step_down: StepDown::default(), ..case.wish };
    case.rooms[0].free = 32 * GIB;
    assert!(case.fit().unwrap().over_memory.is_some());
    case.wish.mmap = false;
    let text = case.fit().unwrap_err().to_string();
    assert!(text.contains("CPU needs 73.8 GiB") && text.ends_with("without --no-mmap"), "{text}");
    case.rooms[0].free = 80 * GIB;
    assert_eq!(case.fit().unwrap().over_memory, None);
    // What lies on GPUs takes none of it.
    let mut case = medium(&[48]);
    case.wish = Wish { n_ctx: 4096, mmap: false, ..case.wish };
    case.rooms[1].free = 32 * GIB;
    let fit = case.fit().unwrap();
    assert!(fit.gpu_layers() > 50 && fit.over_memory.is_none(), "{fit:?}");
    case.rooms[1].free = 24 * GIB;
    assert!(case.fit().is_err());
}
