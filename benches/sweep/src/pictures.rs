//! Pictures of the records in a folder, each for light and for dark pages.

mod chart;
mod columns;
mod draw;
mod error;
mod peers;
pub(crate) mod records;
mod scaling;
mod theme;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Parser;

use crate::pictures::chart::Picture;
use crate::pictures::theme::{DARK, LIGHT};

/// Draws the records of a machine as SVG.
#[derive(Parser)]
struct Options {
    /// The folder that has columns.json, peers.json, python.json or scaling.json.
    folder: PathBuf,
    /// The folder that pictures go to; the folder of the records if it is not given.
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Makes a picture of a folder; `None` if the record for it is absent.
type Make = fn(&Path) -> anyhow::Result<Option<Picture>>;

const PICTURES: [(&str, &str, Make); 4] = [
    ("columns", "columns.json", columns::picture),
    ("peers", "peers.json or python.json", peers::picture),
    ("error", "python.json with errors", error::picture),
    ("scaling", "scaling.json", scaling::picture),
];

/// Draws every picture for which there is a record.
///
/// # Errors
/// If a record cannot be read, or a picture not be written.
pub fn main() -> anyhow::Result<()> {
    let Options { folder, out } = Options::parse();
    let out = out.unwrap_or_else(|| folder.clone());
    fs::create_dir_all(&out).with_context(|| format!("{} cannot be made", out.display()))?;
    for (name, of, make) in PICTURES {
        let Some(picture) = make(&folder)? else {
            println!("{name}: not drawn, {} has no {of}", folder.display());
            continue;
        };
        for theme in [&LIGHT, &DARK] {
            let path = out.join(format!("{name}-{}.svg", theme.name));
            fs::write(&path, draw::svg(&picture, theme)?)
                .with_context(|| format!("{} cannot be written", path.display()))?;
            println!("{}", path.display());
        }
    }
    Ok(())
}
