//! Jobs whose readers do not read: they stand, hold up nobody, and lose nothing.

use super::*;

#[test]
fn a_paused_job_stands_while_others_go_on() {
    let engine = tiny(1024);
    let questions = questions(&engine);
    let mut stage = Stage::new(&engine, 2);
    for id in 0..2 {
        stage.scheduler.submit(job(id, &questions[id as usize], endless(&engine), 40));
    }
    (0..5).for_each(|_| stage.step());
    stage.scheduler.pause(JobId(0), true);
    let n_before = stage.told[&0].tokens.len();
    stage.run();
    assert_eq!((stage.told[&0].tokens.len(), stage.told[&1].tokens.len()), (n_before, 40));
    assert!(!stage.told[&0].is_over() && stage.told[&1].is_over());
    stage.scheduler.pause(JobId(0), false);
    stage.run();
    let expected = alone(&engine, &questions[0][..].into(), endless(&engine), 40);
    assert_eq!(stage.told[&0].tokens, expected);
}

/// A stage of one slot that a paused job has, with five tokens said and another job waiting.
fn held_up(engine: &Arc<Engine>, paused_max: Duration) -> Stage {
    let questions = questions(engine);
    let mut stage = Stage::new(engine, 1);
    stage.scheduler.paused_max = paused_max;
    stage.scheduler.submit(job(0, &questions[0], endless(engine), 40));
    (0..5).for_each(|_| stage.step());
    stage.scheduler.pause(JobId(0), true);
    stage.run();
    stage.scheduler.submit(job(1, &questions[1], endless(engine), 10));
    stage
}

#[test]
fn a_job_that_is_paused_for_long_leaves_its_slot_and_goes_on_from_where_it_was() {
    let engine = tiny(1024);
    let questions = questions(&engine);
    let mut stage = held_up(&engine, Duration::ZERO);
    stage.run();
    assert!(stage.told[&1].is_over(), "the slot is free for others");
    let load = stage.scheduler.load();
    assert_eq!((load.n_running, load.n_suspended, load.n_waiting), (0, 1, 0));
    assert_eq!(stage.told[&0].tokens.len(), 5);
    // It is the oldest, and the next that has its turn.
    stage.scheduler.submit(job(2, &questions[2], endless(&engine), 10));
    stage.scheduler.pause(JobId(0), false);
    stage.step();
    assert_eq!(stage.scheduler.load().n_suspended, 0);
    stage.run();
    let expected = alone(&engine, &questions[0][..].into(), endless(&engine), 40);
    assert_eq!(stage.told[&0].tokens, expected);
    let spent = stage.told[&0].ended.unwrap().1;
    assert_eq!(spent.n_prefilled, questions[0].len(), "nothing is computed twice");
    assert!(stage.told[&2].is_over());
    stage.holds_only_what_is_kept();
}

#[test]
fn a_pause_is_cut_short_only_for_those_who_wait_for_a_slot_and_can_use_it() {
    let engine = tiny(1024);
    let mut stage = held_up(&engine, Duration::from_secs(3600));
    stage.run();
    assert_eq!(stage.scheduler.load().n_suspended, 0, "it may come back yet");
    assert!(stage.scheduler.idle_for().is_some_and(|time| time > Duration::from_secs(3000)));
    stage.scheduler.pause(JobId(1), true);
    assert_eq!(stage.scheduler.idle_for(), None);
    stage.scheduler.paused_max = Duration::ZERO;
    stage.run();
    assert_eq!(stage.scheduler.load().n_running, 1, "the other wants nothing");
    stage.scheduler.pause(JobId(1), false);
    assert!(!stage.scheduler.is_idle());

    let mut stage = Stage::new(&engine, 2);
    stage.scheduler.paused_max = Duration::ZERO;
    for (id, question) in (0..2).zip(&questions(&engine)) {
        stage.scheduler.submit(job(id, question, endless(&engine), 20));
        stage.step();
        stage.scheduler.pause(JobId(0), true);
    }
    stage.run();
    let load = stage.scheduler.load();
    assert_eq!((load.n_running, load.n_suspended), (1, 0), "there is a slot for everybody");
}

/// There is a slot for both, but the first has most of the cells.
#[test]
fn a_job_that_is_paused_for_long_gives_up_its_cells_too() {
    let engine = tiny(1024);
    let mut stage = Stage::new(&engine, 2);
    stage.scheduler.paused_max = Duration::ZERO;
    stage.scheduler.submit(job(0, &noise(1, 800), endless(&engine), 40));
    (0..20).for_each(|_| stage.step());
    let n_before = stage.told[&0].tokens.len();
    assert!(n_before > 0);
    stage.scheduler.pause(JobId(0), true);
    stage.scheduler.submit(job(1, &noise(2, 400), endless(&engine), 10));
    stage.run();
    assert!(stage.told[&1].is_over());
    assert_eq!(stage.scheduler.load().n_suspended, 1);
    stage.scheduler.pause(JobId(0), false);
    stage.run();
    assert_eq!(stage.told[&0].tokens.len(), 40);
    stage.holds_only_what_is_kept();
}

#[test]
fn paused_jobs_that_wait_are_passed_by() {
    let engine = tiny(1024);
    let questions = questions(&engine);
    let mut stage = Stage::new(&engine, 1);
    stage.scheduler.paused_max = Duration::ZERO;
    for id in 0..4 {
        stage.scheduler.submit(job(id, &questions[id as usize], endless(&engine), 10));
        stage.scheduler.pause(JobId(id), id < 3);
    }
    stage.run();
    assert!(stage.told[&3].is_over() && stage.told.len() == 1);
    (0..3).for_each(|id| stage.scheduler.pause(JobId(id), false));
    stage.run();
    assert!((0..3).all(|id| stage.told[&id].is_over()));
}

#[test]
fn slots_go_round_among_readers_that_come_and_go() {
    let engine = tiny(1024);
    let questions = questions(&engine);
    let mut stage = Stage::new(&engine, 2);
    stage.scheduler.paused_max = Duration::ZERO;
    let mut dice = Dice(7);
    for id in 0..8 {
        stage.scheduler.submit(job(id, &questions[id as usize], endless(&engine), 12));
    }
    for _ in 0..300 {
        stage.scheduler.pause(JobId(dice.roll(8)), dice.roll(3) > 0);
        stage.step();
        assert!(stage.scheduler.load().n_running <= 2);
    }
    (0..8).for_each(|id| stage.scheduler.pause(JobId(id), false));
    stage.run();
    for (question, id) in questions.iter().zip(0..) {
        is_likeliest(&engine, question, &stage.told[&id].tokens);
        assert_eq!(stage.told[&id].tokens.len(), 12);
    }
    stage.holds_only_what_is_kept();
}
