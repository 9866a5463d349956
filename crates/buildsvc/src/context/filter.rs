//! What of a directory is sent, and which parts of it need not even be visited.
//!
//! A context may lie beside gigabytes of build output that its ignore patterns name; [`Filter`] sees from the patterns
//! when nothing below a directory can be wanted. Follows `NewFilterFS` and `filterFS.Walk` of fsutil `filter.go`.

use super::local_dir::LocalDir;
use super::pattern::{Matcher, Pattern};
use super::{ContextError, Selection, followpaths};

#[derive(Debug)]
pub(super) struct Filter {
    include: Option<Matcher>,
    exclude: Option<Matcher>,
    /// Where below included entries may lie, each ending in `/`; unknown if some pattern has wildcards.
    include_prefixes: Option<Vec<Vec<u8>>>,
    /// The same for the exceptions among the exclude patterns.
    exception_prefixes: Option<Vec<Vec<u8>>>,
    fence: Option<Limits>,
}

/// A [`Fence`](super::Fence) that has something to add to the selection.
#[derive(Debug)]
struct Limits {
    only: Option<Matcher>,
    only_prefixes: Option<Vec<Vec<u8>>>,
    ignore: Option<Matcher>,
    exception_prefixes: Option<Vec<Vec<u8>>>,
    spared: Vec<Vec<u8>>,
}

/// Which patterns matched a directory; handed down to the entries in it.
#[derive(Debug, Clone, Default)]
pub(super) struct Matched {
    include: Vec<bool>,
    exclude: Vec<bool>,
    only: Vec<bool>,
    ignore: Vec<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Keep,
    /// Not kept, but if it is a directory something below it may be.
    Pass,
    /// Not kept, nor anything below.
    Prune,
}

impl Filter {
    /// Compiles `selection`, resolving its follow-paths in `dir` now.
    pub(super) fn new(dir: &LocalDir, selection: &Selection) -> Result<Filter, ContextError> {
        let mut include: Vec<Vec<u8>> = selection.include.iter().map(|p| p.as_bytes().to_vec()).collect();
        if !selection.followpaths.is_empty()
            && let Some(targets) = followpaths::follow(dir, &selection.followpaths)?
        {
            include.extend(targets);
            // The root among them lifts every restriction.
            include = followpaths::without_nested(include).unwrap_or_default();
        }
        let matcher = |kind, patterns: &[&[u8]]| {
            if patterns.is_empty() { Ok(None) } else { compile(kind, patterns.iter().copied()).map(Some) }
        };
        let include = matcher("include", &include.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
        let exclude =
            matcher("exclude", &selection.exclude.iter().map(String::as_bytes).collect::<Vec<_>>())?;
        let include_prefixes =
            include.as_ref().and_then(|matcher| prefixes(matcher, |pattern| !pattern.is_exception()));
        let exception_prefixes =
            exclude.as_ref().and_then(|matcher| prefixes(matcher, Pattern::is_exception));
        let fence = Limits::new(dir, selection)?;
        Ok(Filter { include, exclude, include_prefixes, exception_prefixes, fence })
    }

    /// Judges the entry at `path`. `parent` is the outcome for the directory it lies in, `None` at the root; `matched`
    /// is set to the outcome for this entry.
    pub(super) fn judge(
        &self,
        path: &[u8],
        is_dir: bool,
        parent: Option<&Matched>,
        matched: &mut Matched,
    ) -> Verdict {
        let mut verdict = match &self.fence {
            Some(fence) => fence.judge(path, is_dir, parent, matched),
            None => Verdict::Keep,
        };
        if verdict == Verdict::Prune {
            return verdict;
        }
        if let Some(include) = &self.include
            && !include.matches(path, parent.map(|parent| parent.include.as_slice()), &mut matched.include)
        {
            if is_dir && leads_nowhere(path, self.include_prefixes.as_deref()) {
                return Verdict::Prune;
            }
            verdict = Verdict::Pass;
        }
        if let Some(exclude) = &self.exclude
            && exclude.matches(path, parent.map(|parent| parent.exclude.as_slice()), &mut matched.exclude)
        {
            if is_dir && leads_nowhere(path, self.exception_prefixes.as_deref()) {
                return Verdict::Prune;
            }
            verdict = Verdict::Pass;
        }
        verdict
    }
}

impl Limits {
    /// `None` when the selection of an honest daemon stays within the fence by itself.
    fn new(dir: &LocalDir, selection: &Selection) -> Result<Option<Limits>, ContextError> {
        let fence = dir.fence();
        let follow = |paths| followpaths::follow(dir, paths).map(Option::unwrap_or_default);
        let ignores = !fence.ignore.is_empty() && fence.ignore != selection.exclude;
        if fence.only.is_empty() && !ignores {
            return Ok(None);
        }
        let mut limits = Limits {
            only: None,
            only_prefixes: None,
            ignore: None,
            exception_prefixes: None,
            spared: Vec::new(),
        };
        if !fence.only.is_empty() {
            let paths = follow(&fence.only)?;
            let only = compile("include", paths.iter().map(Vec::as_slice))?;
            limits.only_prefixes = prefixes(&only, |_| true);
            limits.only = Some(only);
        }
        if ignores {
            let ignore = compile("ignore", fence.ignore.iter().map(String::as_bytes))?;
            limits.exception_prefixes = prefixes(&ignore, Pattern::is_exception);
            limits.ignore = Some(ignore);
            limits.spared = follow(&fence.spared)?;
        }
        Ok(Some(limits))
    }

    fn judge(&self, path: &[u8], is_dir: bool, parent: Option<&Matched>, matched: &mut Matched) -> Verdict {
        if let Some(only) = &self.only
            && !only.matches(path, parent.map(|parent| parent.only.as_slice()), &mut matched.only)
        {
            let nowhere = !is_dir || leads_nowhere(path, self.only_prefixes.as_deref());
            return if nowhere { Verdict::Prune } else { Verdict::Pass };
        }
        if let Some(ignore) = &self.ignore
            && ignore.matches(path, parent.map(|parent| parent.ignore.as_slice()), &mut matched.ignore)
            && !self.spared.iter().any(|spared| spared == path)
        {
            let nowhere = leads_nowhere(path, self.exception_prefixes.as_deref())
                && !self.spared.iter().any(|spared| lies_below(spared, path));
            return if is_dir && !nowhere { Verdict::Pass } else { Verdict::Prune };
        }
        Verdict::Keep
    }
}

fn compile<'a>(
    kind: &'static str,
    patterns: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Matcher, ContextError> {
    Matcher::new(patterns).map_err(|source| ContextError::Pattern { kind, source })
}

/// The directories below which patterns of a kind may match, or `None` if one of them has wildcards elsewhere than at
/// its end.
fn prefixes(matcher: &Matcher, of_interest: impl Fn(&Pattern) -> bool) -> Option<Vec<Vec<u8>>> {
    let mut prefixes = Vec::new();
    for pattern in matcher.patterns().iter().filter(|pattern| of_interest(pattern)) {
        let text = pattern.without_trailing_glob();
        if text.iter().any(|byte| b"*[]?^\\".contains(byte)) {
            return None;
        }
        prefixes.push([text, b"/"].concat());
    }
    Some(prefixes)
}

fn leads_nowhere(dir: &[u8], prefixes: Option<&[Vec<u8>]>) -> bool {
    prefixes.is_some_and(|prefixes| !prefixes.iter().any(|prefix| lies_below(prefix, dir)))
}

fn lies_below(path: &[u8], dir: &[u8]) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.first() == Some(&b'/'))
}
