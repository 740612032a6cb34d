//! An app at work: `thumbnails` is installed, a picture is copied in, and its small one appears.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::say;
use super::stage::Stage;
use xtask::command::{execute, output};
use xtask::guests;

const PATIENCE: Duration = Duration::from_secs(60);
/// A picture of 1200 by 800 pixels, as a PNG.
const PICTURE: &str = "
import struct, sys, zlib
def chunk(kind, data):
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
rows = b''.join(b'\\0' + bytes(v for x in range(1200) for v in (x % 256, y % 256, 128)) for y in range(800))
header = struct.pack('>IIBBBBB', 1200, 800, 8, 2, 0, 0, 0)
png = chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b'')
open(sys.argv[1], 'wb').write(b'\\x89PNG\\r\\n\\x1a\\n' + png)";

pub(crate) fn run(stage: &Stage) -> Result<()> {
    guests::build_rust()?;
    let package = guests::package("thumbnails", &stage.outside(""), &|| stage.blocktree())?;
    say("app", "thumbnails: packed, and signed by its author");

    stage.mount()?;
    let photos = stage.mount_point().join("photos");
    fs::create_dir(&photos)?;
    let grant = ["--grant", "photos=/photos:rw"];
    execute(stage.blocktree().args(["app", "install"]).arg(stage.mount_point()).arg(&package).args(grant))?;
    output(Command::new("python3").args(["-c", PICTURE]).arg(stage.outside("picture.png")))?;
    let start = Instant::now();
    fs::copy(stage.outside("picture.png"), photos.join("picture.png"))?;
    let small = photos.join("thumbnails/picture.png.jpg");
    wait_for(&small, start)?;
    let took = start.elapsed().as_millis();
    let bytes = fs::read(&small)?;
    ensure!(bytes.starts_with(&[0xff, 0xd8]), "{} is no JPEG", small.display());
    say(
        "app",
        &format!("a picture copied into /photos; {took} ms later its thumbnail, {} bytes", bytes.len()),
    );
    stage.unmount()
}

fn wait_for(path: &Path, start: Instant) -> Result<()> {
    while !path.exists() {
        ensure!(start.elapsed() < PATIENCE, "{} does not appear", path.display());
        sleep(Duration::from_millis(1));
    }
    Ok(())
}
