//! A set of images with their classes: IDX files as MNIST has them, or a safetensors file.

use std::path::{Path, PathBuf};

use reweight_quant::error::FileError;
use reweight_quant::store::Bytes;
use reweight_quant::store::safetensors::SafetensorsFile;
use reweight_quant::tensor::{Dtype, shape_text};

use super::idx::Idx;
use crate::model::{ImageShape, Pixels};

/// Why an image set cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageSetError {
    /// A file of it cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is neither of the formats.
    #[error("`{}` is no image set: {what}", path.display())]
    NoSet {
        /// The file or folder.
        path: PathBuf,
        /// What was looked for.
        what: String,
    },
    /// Images and labels, or labels and classes, do not fit.
    #[error("`{}`: {what}", path.display())]
    Unfit {
        /// The file.
        path: PathBuf,
        /// What was expected and found.
        what: String,
    },
}

impl ImageSetError {
    /// What the reader can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoSet { .. } => Some(
                "give an IDX file of images (`t10k-images-idx3-ubyte.gz`) with its labels beside it, the folder of both, or a \
                 .safetensors file with `images` and `labels`"
                    .into(),
            ),
            Self::File(error) => error.hint(),
            Self::Unfit { .. } => None,
        }
    }
}

/// Images of one shape, a byte a pixel and channel, and the class of each.
#[derive(Debug)]
pub struct ImageSet {
    path: PathBuf,
    shape: ImageShape,
    n_images: usize,
    pixels: Bytes,
    start: usize,
    labels: Option<Vec<u32>>,
}

impl ImageSet {
    /// Opens a set. A folder is one with `*images-idx3-ubyte`, packed or not, in it: of several the test set (`t10k`). The labels of
    /// an IDX file of images are in the file whose name says `labels` and `idx1` for `images` and `idx3`.
    ///
    /// # Errors
    /// `ImageSetError`, with the file and what was expected of it.
    pub fn open(path: &Path) -> Result<Self, ImageSetError> {
        let path = &if path.is_dir() { images_in(path)? } else { path.to_owned() };
        let bytes = Bytes::map(path)?;
        if Idx::is_one(&bytes) {
            let labels = labels_beside(path).map(|labels| Ok::<_, FileError>((Bytes::map(&labels)?, labels)));
            return Self::of_idx(path, bytes, labels.transpose()?);
        }
        Self::of_safetensors(path, bytes)
    }

    /// A set in IDX files that are in memory; paths are for messages.
    ///
    /// # Errors
    /// As [`ImageSet::open`].
    pub fn of_idx(path: &Path, bytes: Bytes, labels: Option<(Bytes, PathBuf)>) -> Result<Self, ImageSetError> {
        let images = Idx::parse(path, bytes)?;
        let (n_images, shape) = image_shape(path, &images.shape)?;
        let labels = labels.map(|(bytes, path)| {
            let labels = Idx::parse(&path, bytes)?;
            if labels.shape != [n_images] {
                let what = format!("expected a label for each of {n_images} images, found {:?}", labels.shape);
                return Err(ImageSetError::Unfit { path, what });
            }
            Ok(labels.elements().iter().map(|label| u32::from(*label)).collect())
        });
        let pixels = Bytes::from_vec(images.elements().to_vec());
        Ok(Self { path: path.to_owned(), shape, n_images, pixels, start: 0, labels: labels.transpose()? })
    }

    /// A set in a safetensors file that is in memory: `images`, U8, `[n, rows, columns]` or `[n, channels, rows, columns]`, and
    /// `labels`, whole numbers, `[n]`.
    ///
    /// # Errors
    /// As [`ImageSet::open`].
    pub fn of_safetensors(path: &Path, bytes: Bytes) -> Result<Self, ImageSetError> {
        let file = SafetensorsFile::parse(path, bytes.clone()).map_err(|error| match error {
            FileError::Malformed { what, .. } => {
                ImageSetError::NoSet { path: path.to_owned(), what: format!("neither IDX nor safetensors ({what})") }
            }
            other => other.into(),
        })?;
        let find = |name: &str| file.tensors().iter().find(|tensor| tensor.name == name);
        let unfit = |what: String| ImageSetError::Unfit { path: path.to_owned(), what };
        let images = find("images").ok_or_else(|| ImageSetError::NoSet {
            path: path.to_owned(),
            what: "no tensor \"images\" among its tensors".to_owned(),
        })?;
        if images.dtype != Dtype::U8 {
            return Err(unfit(format!("tensor \"images\": expected U8, found {}", images.dtype)));
        }
        let (n_images, shape) = image_shape(path, &images.shape)?;
        let labels = find("labels").map(|tensor| {
            if tensor.shape != [n_images] {
                let found = shape_text(&tensor.shape);
                return Err(unfit(format!("tensor \"labels\": expected shape [{n_images}], found {found}")));
            }
            whole_numbers(tensor.dtype, &bytes[tensor.range.clone()]).ok_or_else(|| {
                unfit(format!("tensor \"labels\": expected whole numbers from 0, found {}", tensor.dtype))
            })
        });
        let labels = labels.transpose()?;
        Ok(Self { path: path.to_owned(), shape, n_images, start: images.range.start, pixels: bytes, labels })
    }

    /// The file of images.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Shape of every image.
    #[must_use]
    pub fn shape(&self) -> ImageShape {
        self.shape
    }

    /// How many images there are, at least one.
    #[must_use]
    pub fn n_images(&self) -> usize {
        self.n_images
    }

    /// The images in order.
    #[must_use]
    pub fn images(&self) -> Vec<Pixels<'_>> {
        let pixels = &self.pixels[self.start..][..self.n_images * self.shape.len()];
        pixels.chunks_exact(self.shape.len()).collect()
    }

    /// The class of each image, below `n_classes`.
    ///
    /// # Errors
    /// `ImageSetError::Unfit` where there are none, or one is beyond the classes.
    pub fn labels(&self, n_classes: usize) -> Result<&[u32], ImageSetError> {
        let unfit = |what: String| ImageSetError::Unfit { path: self.path.clone(), what };
        let labels =
            self.labels.as_deref().ok_or_else(|| unfit("expected labels with the images, found none".into()))?;
        match labels.iter().position(|label| *label as usize >= n_classes) {
            Some(at) => Err(unfit(format!("label {} of image {at} is beyond {n_classes} classes", labels[at]))),
            None => Ok(labels),
        }
    }
}

/// Number and shape of images from the dimensions of their tensor.
fn image_shape(path: &Path, shape: &[usize]) -> Result<(usize, ImageShape), ImageSetError> {
    let (n, shape) = match *shape {
        [n, height, width] => (n, ImageShape { channels: 1, height, width }),
        [n, channels, height, width] => (n, ImageShape { channels, height, width }),
        _ => {
            let what = format!("expected images in 3 or 4 dimensions, found {}", shape_text(shape));
            return Err(ImageSetError::Unfit { path: path.to_owned(), what });
        }
    };
    if n == 0 || shape.is_empty() {
        let what = format!("expected images, found {n} of {shape}");
        return Err(ImageSetError::Unfit { path: path.to_owned(), what });
    }
    Ok((n, shape))
}

/// Little-endian whole numbers from 0 to 2^32 - 1, or `None` where one is another or the type is none of whole numbers.
fn whole_numbers(dtype: Dtype, bytes: &[u8]) -> Option<Vec<u32>> {
    if !matches!(dtype, Dtype::U8 | Dtype::I32 | Dtype::I64) {
        return None;
    }
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |n, byte| (n << 8) | u64::from(*byte));
    bytes.chunks_exact(dtype.bytes()).map(|one| i32::try_from(number(one)).ok().map(i32::cast_unsigned)).collect()
}

/// The file of labels that belongs to a file of images, if it is there; packed or not.
fn labels_beside(images: &Path) -> Option<PathBuf> {
    let name = images.file_name()?.to_str()?;
    let name = name.replacen("images", "labels", 1).replacen("idx3", "idx1", 1);
    let bare = name.strip_suffix(".gz").unwrap_or(&name);
    let candidates = [name.clone(), bare.to_owned(), format!("{bare}.gz")];
    candidates.iter().map(|name| images.with_file_name(name)).find(|path| path != images && path.is_file())
}

/// The file of images in a folder.
fn images_in(folder: &Path) -> Result<PathBuf, ImageSetError> {
    let names = reweight_quant::store::folder::Folder::on_disk(folder).names()?;
    let mut found: Vec<&String> =
        names.iter().filter(|name| name.contains("images") && name.contains("idx3") && !name.contains('/')).collect();
    if found.len() > 1 {
        found.retain(|name| name.starts_with("t10k"));
    }
    match found.as_slice() {
        [name] | [name, _] => Ok(folder.join(name)),
        _ => Err(ImageSetError::NoSet {
            path: folder.to_owned(),
            what: "no file `t10k-images-idx3-ubyte`, packed or not, nor one other such file".to_owned(),
        }),
    }
}
