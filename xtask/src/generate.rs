//! `cargo xtask generate`: files that are derived from the code and stand in the repository for those who read it there.

use std::path::Path;

use clap::Args;

/// Write the files that are derived from the code: `schema/kiln.json`
#[derive(Debug, Args)]
pub(crate) struct Generate {
    /// Fail where a file is not what it should be, and write nothing
    #[arg(long)]
    check: bool,
}

impl Generate {
    pub(crate) fn run(&self) -> Result<(), String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
        let path = root.join("schema/kiln.json");
        let text = format!("{:#}\n", kiln_plan::stack::schema());
        if fs_err::read_to_string(&path).is_ok_and(|old| old == text) {
            return Ok(());
        }
        if self.check {
            return Err("`schema/kiln.json` is not what the code says: run `cargo xtask generate`".into());
        }
        fs_err::write(path, text).map_err(|error| error.to_string())
    }
}
