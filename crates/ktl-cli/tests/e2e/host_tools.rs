//! Programs of this machine as the contents of an image that has nothing else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Puts programs into `root`: each at `/bin/NAME`, and its libraries where it looks for them.
pub fn bring(root: &Path, programs: &[PathBuf]) {
    let put = |from: &Path, to: PathBuf| {
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, &to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    };
    for program in programs {
        put(program, root.join("bin").join(program.file_name().unwrap()));
        let libraries = Command::new("ldd").arg(program).output().unwrap();
        let libraries = String::from_utf8(libraries.stdout).unwrap();
        for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
            let library = Path::new(library.trim_end_matches(':'));
            put(library, root.join(library.strip_prefix("/").unwrap()));
        }
    }
}
