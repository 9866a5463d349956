//! The images of two archives: their layers, configs and manifests.

use serde_json::Value;

use super::archive::Archive;
use super::json::{self, short};
use super::layer::{self, Compression, FileDifference, Layer};
use super::{CompareError, Difference};

/// Indexes in indexes.
const DEPTH: usize = 3;
const IMAGES_LIMIT: usize = 1000;

/// One platform's image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// `linux/amd64`; empty where the archive does not say.
    pub platform: String,
    /// Of its manifest.
    pub digest: String,
}

impl Archive {
    /// All images, without attestations: those say when and by which run an image was made.
    pub fn images(&self) -> Result<Vec<Image>, CompareError> {
        let mut images = Vec::new();
        self.collect(&self.index, DEPTH, &mut images)?;
        if images.is_empty() {
            return Err(self.broken("no image in it"));
        }
        images.sort_by(|a, b| a.platform.cmp(&b.platform));
        Ok(images)
    }

    fn collect(&self, index: &Value, depth: usize, images: &mut Vec<Image>) -> Result<(), CompareError> {
        for descriptor in list(index, "manifests") {
            let digest = text(&descriptor["digest"]);
            let media_type = text(&descriptor["mediaType"]);
            if descriptor["annotations"]["vnd.docker.reference.type"] == "attestation-manifest" {
                continue;
            }
            if media_type.contains("image.index") || media_type.contains("manifest.list") {
                if depth == 0 {
                    return Err(self.broken("indexes within indexes"));
                }
                self.collect(&self.json(digest)?, depth - 1, images)?;
                continue;
            }
            if images.len() == IMAGES_LIMIT {
                return Err(self.broken(format!("more than {IMAGES_LIMIT} images")));
            }
            let platform = &descriptor["platform"];
            let parts = ["os", "architecture", "variant"].map(|part| text(&platform[part]));
            let platform = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
            images.push(Image { platform, digest: digest.to_owned() });
        }
        Ok(())
    }
}

/// The first place where two archives of one build differ.
pub fn first_difference(a: &Archive, b: &Archive) -> Result<Option<Difference>, CompareError> {
    let (ones, others) = (a.images()?, b.images()?);
    let platforms = |images: &[Image]| -> Vec<String> { images.iter().map(|i| i.platform.clone()).collect() };
    if platforms(&ones) != platforms(&others) {
        return Ok(Some(Difference {
            place: "index".to_owned(),
            step: None,
            what: "platforms".to_owned(),
            values: Some((platforms(&ones).join(", "), platforms(&others).join(", "))),
            mend: None,
        }));
    }
    let several = ones.len() > 1;
    let mut pairs = ones.iter().zip(&others);
    let Some((one, other)) = pairs.find(|(one, other)| one.digest != other.digest) else {
        // Digests that are equal say nothing of bytes that nobody has looked at.
        for (archive, image) in
            [a, b].into_iter().flat_map(|archive| ones.iter().map(move |image| (archive, image)))
        {
            check(archive, &image.digest)?;
        }
        return Ok(None);
    };
    let mut found = of_image((a, &one.digest), (b, &other.digest))?;
    if several {
        found.place = format!("{}: {}", short(&one.platform), found.place);
    }
    Ok(Some(found))
}

/// Whether all that belongs to an image is what its manifest says.
fn check(archive: &Archive, manifest: &str) -> Result<(), CompareError> {
    let manifest = archive.json(manifest)?;
    archive.check(text(&manifest["config"]["digest"]))?;
    list(&manifest, "layers").iter().try_for_each(|layer| archive.check(text(&layer["digest"])))
}

fn of_image((a, one): (&Archive, &str), (b, other): (&Archive, &str)) -> Result<Difference, CompareError> {
    let (one, other) = (a.json(one)?, b.json(other)?);
    let configs = (a.json(text(&one["config"]["digest"]))?, b.json(text(&other["config"]["digest"]))?);
    let (layers, others) = (list(&one, "layers"), list(&other, "layers"));
    let mut pairs = layers.iter().zip(others).enumerate();
    if let Some((at, (left, right))) = pairs.find(|(_, (left, right))| left["digest"] != right["digest"]) {
        let place = format!("layer {} of {}", at + 1, layers.len());
        let step = step(&configs.0, at);
        let digests = (short(text(&left["digest"])), short(text(&right["digest"])));
        let compressions = [left, right].map(|layer| Compression::of(text(&layer["mediaType"])));
        let [Some(left_compression), Some(right_compression)] = compressions else {
            let what = "files, which ktl does not read of a layer that is compressed this way".to_owned();
            let mend = Some("To have the file named, verify with compression=gzip.");
            return Ok(Difference { place, step, what, values: Some(digests), mend });
        };
        let left = Layer { bytes: a.blob(text(&left["digest"]))?, compression: left_compression };
        let right = Layer { bytes: b.blob(text(&right["digest"]))?, compression: right_compression };
        let found = layer::first_difference(&left, &right)
            .map_err(|(second, error)| if second { b.read_error(error) } else { a.read_error(error) })?;
        return Ok(match found {
            Some(FileDifference { path, what, values }) => {
                let mend = (what == ["mtime"]).then_some(CACHED_TIMES);
                let what = format!("/{}: {}", short(&path), what.join(", "));
                Difference { place, step, what, values: Some(values), mend }
            }
            None => {
                let what = "the same files, in other bytes".to_owned();
                Difference { place, step, what, values: Some(digests), mend: None }
            }
        });
    }
    let counted = |layers: &[Value]| format!("{} layers", layers.len());
    let (place, what, values) = if layers.len() != others.len() {
        ("manifest", "number of layers".to_owned(), Some((counted(layers), counted(others))))
    } else {
        let in_config = json::first_difference(&configs.0, &configs.1).map(|found| ("config", found));
        let found =
            in_config.or_else(|| json::first_difference(&one, &other).map(|found| ("manifest", found)));
        match found {
            Some((place, (at, a, b))) => (place, short(at.trim_start_matches('.')), Some((a, b))),
            None => ("manifest", "the same content, in other bytes".to_owned(), None),
        }
    };
    Ok(Difference { place: place.to_owned(), step: None, what, values, mend: None })
}

const CACHED_TIMES: &str = "Times before SOURCE_DATE_EPOCH are kept. The builder's cache may hold them of a build without --reproducible: \
                            verify once with --no-cache.";

/// The step that made a layer: history tells it for all, and says which made none.
fn step(config: &Value, layer: usize) -> Option<String> {
    let mut made = list(config, "history").iter().filter(|entry| entry["empty_layer"] != true);
    let step = made.nth(layer)?["created_by"].as_str()?;
    Some(short(step.strip_suffix(" # buildkit").unwrap_or(step)))
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
