use reweight_quant::store::Bytes;
use reweight_quant::store::safetensors::SafetensorsFile;

use super::*;

/// Images and what the published code makes of them: by tools/make-corruption-fixtures.py, which tells the versions of what it runs.
const GOLDEN: &[u8] = include_bytes!("../../../tests/fixtures/corruptions.safetensors");

fn all() -> Vec<Corruption> {
    "all".parse::<Corruptions>().expect("the word is known").0
}

#[test]
fn images_are_those_of_the_published_code() {
    let file =
        SafetensorsFile::parse("golden".as_ref(), Bytes::from_static(GOLDEN)).expect("the fixture is well formed");
    let read = |name: &str| {
        let tensor = file.tensors().iter().find(|tensor| tensor.name == name);
        tensor.map(|tensor| (tensor.shape.clone(), &GOLDEN[tensor.range.clone()]))
    };
    let (shape, images) = read("images").expect("it holds images");
    let size = (shape[1], shape[2]);
    let mut wrong = Vec::new();
    for corruption in all() {
        let Some((_, expected)) = read(&corruption.to_string()) else {
            wrong.push(format!("{corruption}: not in the fixture"));
            continue;
        };
        let mut differing = 0;
        let mut worst = 0;
        for (index, (image, expected)) in
            images.chunks(size.0 * size.1).zip(expected.chunks(size.0 * size.1)).enumerate()
        {
            let found = corruption.apply(size, image, index, 11);
            for (found, expected) in found.iter().zip(expected) {
                differing += usize::from(found != expected);
                worst = worst.max(found.abs_diff(*expected));
            }
        }
        // The libraries compute in f32 here and there, so that a value between two bytes may fall to either.
        if worst > 1 || differing * 100 > images.len() {
            wrong.push(format!("{corruption}: {differing} of {} differ, by up to {worst}", images.len()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn any_size_of_image_can_be_spoiled() {
    for size in [(1, 1), (1, 7), (7, 1), (2, 3), (9, 5), (40, 33)] {
        let pixels: Vec<u8> = (0..size.0 * size.1).map(|i| (i * 53 % 256) as u8).collect();
        for corruption in all() {
            assert_eq!(corruption.apply(size, &pixels, 3, 0).len(), pixels.len(), "{corruption} {size:?}");
        }
    }
}

#[test]
fn seeds_and_indices_draw_apart() {
    let pixels = [128; 64];
    let noise = "gaussian_noise:5".parse::<Corruptions>().expect("it is known").0[0];
    let first = noise.apply((8, 8), &pixels, 0, 0);
    assert_eq!(first, noise.apply((8, 8), &pixels, 0, 0));
    assert_ne!(first, noise.apply((8, 8), &pixels, 1, 0));
    assert_ne!(first, noise.apply((8, 8), &pixels, 0, 1));
}

#[test]
fn names_are_read() {
    let text = |text: &str| {
        text.parse::<Corruptions>().map(|found| found.0.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    assert_eq!(text("fog:3"), Ok(vec!["fog:3".to_owned()]));
    assert_eq!(text("fog").map(|found| found.len()), Ok(5));
    assert_eq!(text("stripe"), Ok(vec!["stripe:1".to_owned()]));
    assert_eq!(text("all").map(|found| found.len()), Ok(18 * 5 + 3));
    assert_eq!(text("all:2").map(|found| found.len()), Ok(21));
    for (wrong, said) in [
        ("fogg", "known are gaussian_noise"),
        ("fog:6", "1 to 5"),
        ("fog:", "1 to 5"),
        ("stripe:2", "no severities"),
        ("", "known are"),
    ] {
        assert!(text(wrong).is_err_and(|error| error.contains(said)), "{wrong}");
    }
}
