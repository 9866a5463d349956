//! All cases.

pub mod agent;
mod credentials;
mod files;
mod flood;
mod outputs;
mod screen;
mod time;
mod wire;

use super::case::Case;

/// Every case, group by group.
pub fn all() -> Vec<Case> {
    [
        files::CASES,
        outputs::CASES,
        credentials::CASES,
        agent::CASES,
        screen::CASES,
        flood::CASES,
        time::CASES,
        wire::CASES,
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_case_has_a_name_of_its_own() {
        let mut names: Vec<&str> = super::all().iter().map(|case| case.name).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
