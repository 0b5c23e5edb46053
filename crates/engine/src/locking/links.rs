//! Directories of wheels as pages of links with digests.
//!
//! uv reads every wheel of a directory to its end and unpacks it into its cache: 21 s and 4.5 GB for torch and what it needs.
//! Of a page with digests it reads the end of the wheels that it considers, in a quarter of a second.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use kiln_plan::parallel;
use kiln_plan::stack::Index;
use url::Url;

use crate::error::Result;
use crate::project::Project;

impl Project<'_> {
    /// Returns the index with a page, written into a directory, in the place of each directory of wheels.
    pub(super) fn with_pages(&self, index: &Index, directory: &Path) -> Result<Index> {
        let mut index = index.clone();
        let links = index.find_links.iter_mut().chain(index.packages.values_mut());
        for (at, link) in links.filter(|link| link.starts_with('/') && Path::new(link).is_dir()).enumerate() {
            let page = directory.join(format!("links-{at}.html"));
            fs_err::write(&page, self.page(Path::new(link))?)?;
            *link = format!("file://{}", page.display());
        }
        Ok(index)
    }

    fn page(&self, directory: &Path) -> Result<String> {
        let mut wheels: Vec<PathBuf> = Vec::new();
        for entry in fs_err::read_dir(directory)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "whl") && path.is_file() {
                wheels.push(path);
            }
        }
        wheels.sort();
        let work = self.workshop.work("read", directory.display().to_string(), None);
        let store = self.workshop.store;
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let digests = parallel::each(&wheels, threads, |path| {
            store.file_digest(path, &|bytes| work.advance(bytes).map_err(std::io::Error::from))
        })?;
        let mut page = String::from("<!DOCTYPE html>\n<html><body>\n");
        for (path, digest) in wheels.iter().zip(digests) {
            // The path is absolute, and its file has a name.
            let (Ok(url), Some(file)) = (Url::from_file_path(path), path.file_name()) else { continue };
            let file = file.to_string_lossy().replace('&', "&amp;").replace('<', "&lt;");
            let _ = writeln!(page, "<a href=\"{url}#sha256={}\">{file}</a>", digest.hex());
        }
        page.push_str("</body></html>\n");
        Ok(page)
    }
}
