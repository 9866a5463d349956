//! What is measured. Cases that follow from each other (cold, then the same again, then one file changed) make a group,
//! which one client goes through in one go; between clients the daemon's cache is emptied, so that cold is cold for each.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::clients::{Build, Client, Clients};
use super::measure::{self, Sample};
use crate::command;
use crate::parts::{BaseImage, Buildkitd, Registry, ScratchDir};

/// One line of the table, per client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Case {
    Version,
    SmallNoop,
    ManyCold,
    ManyNoop,
    ManyOneChanged,
    BigFile,
    Output,
    Log,
}

/// Cases that share their runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    Version,
    Small,
    Many,
    Big,
    Output,
    Log,
}

impl Case {
    pub const ALL: [Case; 8] = [
        Case::Version,
        Case::SmallNoop,
        Case::ManyCold,
        Case::ManyNoop,
        Case::ManyOneChanged,
        Case::BigFile,
        Case::Output,
        Case::Log,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Case::Version => "version",
            Case::SmallNoop => "small-noop",
            Case::ManyCold => "many-cold",
            Case::ManyNoop => "many-noop",
            Case::ManyOneChanged => "many-one-changed",
            Case::BigFile => "big-file",
            Case::Output => "local-output",
            Case::Log => "log-lines",
        }
    }

    fn group(self) -> Group {
        match self {
            Case::Version => Group::Version,
            Case::SmallNoop => Group::Small,
            Case::ManyCold | Case::ManyNoop | Case::ManyOneChanged => Group::Many,
            Case::BigFile => Group::Big,
            Case::Output => Group::Output,
            Case::Log => Group::Log,
        }
    }

    /// The groups of these cases, each once, in order.
    pub fn groups(cases: &[Case]) -> Vec<Group> {
        let mut groups: Vec<Group> = cases.iter().map(|case| case.group()).collect();
        groups.dedup();
        groups
    }
}

impl Group {
    pub fn name(self) -> &'static str {
        match self {
            Group::Version => "version",
            Group::Small => "small",
            Group::Many => "many files",
            Group::Big => "big file",
            Group::Output => "local output",
            Group::Log => "log lines",
        }
    }

    /// How often every client goes through the group.
    pub fn rounds(self, quick: bool) -> usize {
        match (self, quick) {
            (Group::Version, false) => 30,
            (Group::Small, false) => 15,
            (Group::Output | Group::Log, false) => 5,
            (Group::Many | Group::Big, false) => 3,
            (Group::Version | Group::Small, true) => 3,
            (_, true) => 1,
        }
    }
}

/// How large the inputs are.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    /// Files of 4 KiB in the large context (50 000 make 200 MB).
    files: u32,
    big_file_mib: u32,
    /// A multiple of 100.
    output_files: u32,
    log_lines: u32,
}

const FULL: Sizes = Sizes { files: 50_000, big_file_mib: 1024, output_files: 20_000, log_lines: 100_000 };
const QUICK: Sizes = Sizes { files: 1_000, big_file_mib: 32, output_files: 1_000, log_lines: 5_000 };

const FILE_SIZE: usize = 4096;
/// At the start of every line that the log case prints.
const LOG_MARK: &str = "ktl-bench-line";

/// Contexts, daemon and clients: all that a round needs.
#[derive(Debug)]
pub struct Ground<'a> {
    clients: &'a Clients,
    daemon: &'a Buildkitd,
    dir: PathBuf,
    sizes: Sizes,
    base: String,
}

impl<'a> Ground<'a> {
    /// Writes the small contexts; the large ones come when their group starts.
    pub fn new(
        clients: &'a Clients,
        daemon: &'a Buildkitd,
        registry: &Registry,
        scratch: &ScratchDir,
        quick: bool,
    ) -> Result<Ground<'a>> {
        let dir = scratch.dir("contexts")?;
        let base = BaseImage::Busybox.reference(registry);
        Ok(Ground { clients, daemon, dir, sizes: if quick { QUICK } else { FULL }, base })
    }

    /// One client goes through one group once.
    pub fn round(&self, group: Group, client: Client, round: usize) -> Result<Vec<(Case, Sample)>> {
        match group {
            Group::Version => {
                let command = self.clients.version(client)?;
                Ok(vec![(Case::Version, measure::sample(&command, &self.log())?)])
            }
            Group::Small => self.small(client),
            Group::Many => self.many(client, round),
            Group::Big => self.big(client),
            Group::Output => self.output(client),
            Group::Log => self.log_lines(client, round),
        }
    }

    fn small(&self, client: Client) -> Result<Vec<(Case, Sample)>> {
        let context = self.context("small", |dir| {
            write(&dir.join("Dockerfile"), "FROM scratch\nCOPY greeting /\n")?;
            write(&dir.join("greeting"), "hello\n")
        })?;
        let build = Build { context: &context, build_args: &[], output: None };
        // Whoever went before may have had the cache emptied.
        self.sample(client, build)?;
        Ok(vec![(Case::SmallNoop, self.sample(client, build)?)])
    }

    fn many(&self, client: Client, round: usize) -> Result<Vec<(Case, Sample)>> {
        let context = self.context("many", |dir| {
            write(&dir.join("Dockerfile"), "FROM scratch\nCOPY . /\n")?;
            many_files(dir, self.sizes.files)
        })?;
        let build = Build { context: &context, build_args: &[], output: None };
        self.empty_the_cache()?;
        let cold = self.sample(client, build)?;
        // Cheap beside the cold build, so there are more of them.
        let noops = [self.sample(client, build)?, self.sample(client, build)?, self.sample(client, build)?];
        let changed = context.join("d7/f7");
        write(&changed, &format!("{} {round}\n", client.name()))?;
        let one_changed = self.sample(client, build)?;
        let noops = noops.map(|sample| (Case::ManyNoop, sample));
        Ok([(Case::ManyCold, cold), (Case::ManyOneChanged, one_changed)].into_iter().chain(noops).collect())
    }

    fn big(&self, client: Client) -> Result<Vec<(Case, Sample)>> {
        let context = self.context("big", |dir| {
            write(&dir.join("Dockerfile"), "FROM scratch\nCOPY big /\n")?;
            let file = File::create(dir.join("big")).context("create the big file")?;
            let mut file = BufWriter::with_capacity(1 << 20, file);
            let mut noise = Noise(1);
            for _ in 0..self.sizes.big_file_mib {
                file.write_all(&noise.bytes(1 << 20)).context("write the big file")?;
            }
            file.flush().context("write the big file")
        })?;
        self.empty_the_cache()?;
        let build = Build { context: &context, build_args: &[], output: None };
        Ok(vec![(Case::BigFile, self.sample(client, build)?)])
    }

    fn output(&self, client: Client) -> Result<Vec<(Case, Sample)>> {
        let directories = self.sizes.output_files / 100;
        let context = self.context("output", |dir| {
            let script = format!(
                "for d in $(seq {directories}); do mkdir -p /out/$d; for f in $(seq 100); do echo $d/$f >/out/$d/$f; done; done"
            );
            let text = format!("FROM {} AS make\nRUN {script}\nFROM scratch\nCOPY --from=make /out /\n", self.base);
            write(&dir.join("Dockerfile"), &text)
        })?;
        let out = self.dir.join("out");
        let build = Build { context: &context, build_args: &[], output: None };
        // The files are made once; what is measured is their way out.
        self.sample(client, build)?;
        let sample = self.sample(client, Build { output: Some(&out), ..build })?;
        let last = out.join(directories.to_string()).join("100");
        if fs::read_to_string(&last).unwrap_or_default() != format!("{directories}/100\n") {
            bail!("{} left no {}", client.name(), last.display());
        }
        fs::remove_dir_all(&out).with_context(|| format!("remove {}", out.display()))?;
        Ok(vec![(Case::Output, sample)])
    }

    fn log_lines(&self, client: Client, round: usize) -> Result<Vec<(Case, Sample)>> {
        let context = self.context("log", |dir| {
            let lines = self.sizes.log_lines;
            let run = format!("RUN : $BUST; seq {lines} | sed 's/^/{LOG_MARK} /'");
            write(&dir.join("Dockerfile"), &format!("FROM {}\nARG BUST\n{run}\n", self.base))
        })?;
        // Never twice the same. The first goes uncounted: it may have to pull the base image.
        let bust = |round: &str| [("BUST", format!("{}-{round}", client.name()))];
        if round == 0 {
            self.sample(client, Build { context: &context, build_args: &bust("first"), output: None })?;
        }
        let bust = bust(&round.to_string());
        let sample = self.sample(client, Build { context: &context, build_args: &bust, output: None })?;
        let said = fs::read(self.log()).context("read the client's output")?;
        let marks = String::from_utf8_lossy(&said)
            .lines()
            // The step's own name holds the mark too, with a quote behind it.
            .filter(|line| {
                line.split_once(LOG_MARK).is_some_and(|(_, rest)| rest.trim().parse::<u32>().is_ok())
            })
            .count();
        if marks != self.sizes.log_lines as usize {
            bail!("{} showed {marks} of {} log lines", client.name(), self.sizes.log_lines);
        }
        Ok(vec![(Case::Log, sample)])
    }

    fn log(&self) -> PathBuf {
        self.dir.join("client.log")
    }

    fn sample(&self, client: Client, build: Build<'_>) -> Result<Sample> {
        measure::sample(&self.clients.build(client, build)?, &self.log())
    }

    fn empty_the_cache(&self) -> Result<()> {
        command::run(self.daemon.buildctl()?.args(["prune", "--all"]))
    }

    /// A context that is written once.
    fn context(&self, name: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let dir = self.dir.join(name);
        if !dir.exists() {
            fs::create_dir(&dir).with_context(|| format!("create {}", dir.display()))?;
            fill(&dir)?;
        }
        Ok(dir)
    }
}

/// `count` files of 4 KiB, a hundred to a directory, none like another.
fn many_files(dir: &Path, count: u32) -> Result<()> {
    let mut noise = Noise(2);
    for number in 0..count {
        let parent = dir.join(format!("d{}", number / 100));
        if number % 100 == 0 {
            fs::create_dir(&parent).with_context(|| format!("create {}", parent.display()))?;
        }
        let file = parent.join(format!("f{}", number % 100));
        fs::write(&file, noise.bytes(FILE_SIZE)).with_context(|| format!("write {}", file.display()))?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

/// Bytes that do not compress, the same in every run (xorshift64).
struct Noise(u64);

impl Noise {
    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            bytes.extend_from_slice(&self.0.to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_long_enough_and_never_repeats() {
        let mut noise = Noise(1);
        let (first, second) = (noise.bytes(100), noise.bytes(100));
        assert_eq!((first.len(), second.len()), (100, 100));
        assert_ne!(first, second);
    }

    #[test]
    fn cases_of_a_group_run_together() {
        assert_eq!(Case::groups(&Case::ALL).len(), 6);
        assert_eq!(Case::groups(&[Case::ManyNoop, Case::ManyOneChanged]), [Group::Many]);
    }
}
