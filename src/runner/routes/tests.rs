//! What is sent and what is not, without a runner.

use super::*;
use crate::engine::SamplingParams;
use crate::runner::Submission;

fn submit(routes: &Routes, id: JobId, life: Option<u64>, pictures: Pictures) -> Line {
    let submission = Submission {
        id,
        tokens: vec![1, 2, 3],
        images: Vec::new(),
        sampling: SamplingParams::default(),
        is_prepared: life.is_some(),
        n_max: 1,
        n_logprobs: None,
        affinity: None,
    };
    routes.submit(id, life, &Request::Submit(submission), pictures).unwrap()
}

/// All that waits to be written.
fn outgoing(routes: &Routes) -> Vec<Request> {
    let frames = std::iter::from_fn(|| routes.inner().next_frame());
    frames.map(|frame| frame::read(&mut &frame[..]).unwrap().unwrap()).collect()
}

#[test]
fn clients_that_come_and_go_leave_nothing_to_be_sent() {
    let routes = Routes::new();
    routes.open(None);
    for _ in 0..100 {
        let line = submit(&routes, routes.new_id(), None, Vec::new());
        routes.cancel(line.id, None);
        // Its name is enough here for what is asked to be prepared.
        let (id, life, _) = routes.prepare(Request::Resume).unwrap();
        routes.cancel(id, Some(life));
    }
    assert!(routes.inner().outgoing.is_empty());
    // What the runner knows already is called off.
    let (id, life, _) = routes.prepare(Request::Resume).unwrap();
    assert_eq!(outgoing(&routes).len(), 1);
    submit(&routes, id, Some(life), Vec::new());
    routes.cancel(id, None);
    let left = outgoing(&routes);
    assert!(matches!(left[..], [Request::Cancel(cancelled)] if cancelled == id), "{left:?}");
}

#[test]
fn a_job_is_held_and_let_go_once_each() {
    let routes = Routes::new();
    routes.open(None);
    let line = submit(&routes, routes.new_id(), None, Vec::new());
    outgoing(&routes);
    for is_paused in [true, true, false, false, true] {
        routes.pause(line.id, &line.is_paused, is_paused);
    }
    // Whoever reads on lets it go on.
    routes.taken(&line);
    let sent = outgoing(&routes);
    use Request::{Pause, Resume};
    assert!(matches!(sent[..], [Pause(_), Resume(_), Pause(_), Resume(_)]), "{sent:?}");
}

fn picture(colour: u8) -> Pictures {
    let rgb = image::RgbImage::from_pixel(56, 56, image::Rgb([colour; 3]));
    let mut png = std::io::Cursor::new(Vec::new());
    rgb.write_to(&mut png, image::ImageFormat::Png).unwrap();
    let image = Arc::new(Image::decode(png.into_inner()).unwrap());
    let grid = PatchConfig::default().grid(image.width(), image.height());
    vec![(image.hash(), grid, image)]
}

#[test]
fn pixels_are_made_once_for_all_who_wait_and_not_for_those_who_left() {
    // With one thread for them, the last picture comes after all others are done.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.max_blocking_threads(1).build().unwrap();
    let _inside = runtime.enter();
    let routes = Arc::new(Routes::new());
    routes.open(Some(PatchConfig::default()));
    let [wanted, left, last] = [1, 2, 3].map(picture);
    let ids = [&wanted, &wanted, &left, &last].map(|pictures| {
        let line = submit(&routes, routes.new_id(), None, pictures.clone());
        (line.id, pictures[0].0)
    });
    outgoing(&routes);
    let (go, gate) = std::sync::mpsc::channel::<()>();
    tokio::task::spawn_blocking(move || gate.recv());
    let asked = ids.iter().map(|&(id, hash)| Event::NeedsPicture(id, hash)).collect();
    routes.take(Report::Step(asked, Load::default()));
    routes.cancel(ids[2].0, None);
    drop(go);
    let mut sent = Vec::new();
    while !sent.contains(&last[0].0) {
        let frame = runtime.block_on(routes.next_frame());
        match frame::read(&mut &frame[..]).unwrap().unwrap() {
            Request::Picture(hash, _) => sent.push(hash),
            Request::Cancel(id) => assert_eq!(id, ids[2].0),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(sent, [wanted[0].0, last[0].0]);
    assert!(outgoing(&routes).is_empty() && routes.inner().asking.is_empty());
}
