//! Makes a small JPEG of each JPEG and PNG that arrives below the grant `photos`, in the folder `thumbnails` there.

wit_bindgen::generate!({ path: "../../wit", world: "reactor" });

use std::io::Cursor;

use blocktree::app::files::{self, File};
use blocktree::app::log::{self, Level};
use blocktree::app::types::Error;
use exports::blocktree::app::events::{Event, Guest};
use image::{ImageFormat, ImageReader, Limits};

const GRANT: &str = "photos";
const FOLDER: &str = "thumbnails";
/// The longer edge of a thumbnail, in pixels.
const EDGE: u32 = 256;
const READ_BYTES: u32 = 1 << 20;
/// A picture that claims more pixels than this is not decoded: a small file may claim any number.
const EDGE_MAX: u32 = 16 << 10;
const DECODED_BYTES_MAX: u64 = 256 << 20;

struct Thumbnails;
export!(Thumbnails);

impl Guest for Thumbnails {
    fn handle(event: Event) -> Result<(), String> {
        match event {
            Event::Written(change) => make(&change.path),
            Event::Renamed(rename) => make(&rename.path),
            Event::Deleted(change) => match files::remove(GRANT, &thumbnail(&change.path)) {
                Ok(()) | Err(Error::NotFound) => Ok(()),
                Err(error) => Err(format!("cannot remove the thumbnail of {}: {error:?}", change.path)),
            },
            _ => Ok(()),
        }
    }
}

fn make(path: &str) -> Result<(), String> {
    if path.starts_with("thumbnails/") {
        return Ok(());
    }
    let bytes = match read(path) {
        Ok(bytes) => bytes,
        // It has gone since; there will be an event that says so.
        Err(Error::NotFound) => return Ok(()),
        Err(error) => return Err(format!("cannot read {path}: {error:?}")),
    };
    let mut reader = match ImageReader::new(Cursor::new(&bytes)).with_guessed_format() {
        Ok(reader) => reader,
        Err(error) => return Err(error.to_string()),
    };
    let mut limits = Limits::default();
    limits.max_image_width = Some(EDGE_MAX);
    limits.max_image_height = Some(EDGE_MAX);
    limits.max_alloc = Some(DECODED_BYTES_MAX);
    reader.limits(limits);
    let picture = match reader.decode() {
        Ok(picture) => picture,
        // It will not be better the next time.
        Err(error) => {
            log::write(Level::Warn, &format!("{path} is no picture that can be read: {error}"));
            return Ok(());
        }
    };
    let small = picture.thumbnail(EDGE, EDGE).to_rgb8();
    let mut encoded = Cursor::new(Vec::new());
    small.write_to(&mut encoded, ImageFormat::Jpeg).map_err(|error| error.to_string())?;
    save(&thumbnail(path), encoded.get_ref())
        .map_err(|error| format!("cannot write the thumbnail of {path}: {error:?}"))?;
    log::write(Level::Info, &format!("{path}: {} by {}", small.width(), small.height()));
    Ok(())
}

/// Where the thumbnail of a picture is: `a/b.png` has its own at `thumbnails/a/b.png.jpg`.
fn thumbnail(path: &str) -> String {
    format!("{FOLDER}/{path}.jpg")
}

fn read(path: &str) -> Result<Vec<u8>, Error> {
    let file = files::open(GRANT, path)?;
    let mut bytes = Vec::new();
    loop {
        let mut part = file.read(bytes.len() as u64, READ_BYTES)?;
        if part.is_empty() {
            return Ok(bytes);
        }
        bytes.append(&mut part);
    }
}

fn save(path: &str, bytes: &[u8]) -> Result<(), Error> {
    for (at, _) in path.match_indices('/') {
        match files::make_directory(GRANT, &path[..at]) {
            Ok(()) | Err(Error::Exists) => {}
            Err(error) => return Err(error),
        }
    }
    let file: File = files::create(GRANT, path)?;
    for (number, part) in bytes.chunks(READ_BYTES as usize).enumerate() {
        file.write(number as u64 * u64::from(READ_BYTES), part)?;
    }
    file.finish()
}
