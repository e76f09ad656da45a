//! What gust makes of pictures, for `scripts/check_images.py`: `dump_patches OUT FILE...`.
//!
//! A line on stdout for every file: `WIDTH HEIGHT COLS ROWS MILLISECONDS`, or `error TEXT`. OUT gets the
//! upright RGB bytes and the normalised f32 pixels of each, one after the other. Files that are named
//! `WIDTHxHEIGHT` are not opened; only the grid is told.

use std::io::Write;
use std::time::Instant;

use gust::vision::{Image, PatchConfig};

fn main() {
    let mut args = std::env::args().skip(1);
    let mut out =
        std::fs::File::create(args.next().expect("usage: dump_patches OUT FILE...")).unwrap();
    let config = PatchConfig::default();
    let mut lines = std::io::stdout().lock();
    for name in args {
        let size = name.split_once('x').and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
        if let Some((width, height)) = size {
            let grid = config.grid(width, height);
            writeln!(lines, "{width} {height} {} {} 0", grid.cols, grid.rows).unwrap();
            continue;
        }
        match Image::decode(std::fs::read(&name).unwrap()) {
            Err(error) => writeln!(lines, "error {error}").unwrap(),
            Ok(image) => {
                let start = Instant::now();
                let patches = config.preprocess(&image);
                let ms = start.elapsed().as_secs_f64() * 1e3;
                out.write_all(image.rgb()).unwrap();
                let bytes: Vec<u8> = patches.pixels.iter().flat_map(|x| x.to_le_bytes()).collect();
                out.write_all(&bytes).unwrap();
                let (w, h) = (image.width(), image.height());
                let grid = patches.grid;
                writeln!(lines, "{w} {h} {} {} {ms:.1}", grid.cols, grid.rows).unwrap();
            }
        }
    }
}
