//! A flag that may be given several times, each time with an id.

/// Parses all values of the flag, empty ones left out. Of several with one id the last counts, at the place of the first, as
/// in docker buildx (`util/buildflags`).
pub(crate) fn last_of_each<S: AsRef<str>, T, E>(
    values: &[S],
    parse: fn(&str) -> Result<T, E>,
    id: fn(&T) -> &str,
) -> Result<Vec<T>, E> {
    let mut specs: Vec<T> = Vec::new();
    for value in values.iter().map(AsRef::as_ref).filter(|value| !value.is_empty()) {
        let spec = parse(value)?;
        match specs.iter_mut().find(|known| id(known) == id(&spec)) {
            Some(known) => *known = spec,
            None => specs.push(spec),
        }
    }
    Ok(specs)
}
