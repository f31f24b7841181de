//! What a training keeps on disk, so that an interrupted one goes on with the very same result.

use rand::rngs::ChaCha20Rng;

use super::checkpoint::{Folder, Header};
use super::network::Net;
use super::parameter::{Moments, Parameter};
use super::trainer::{Candidate, Epoch, KEPT};
use super::{Architecture, Fitted, FittedLayer};
use crate::error::NetsError;

impl Net<'_> {
    fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        self.weights.iter().chain(&self.biases)
    }

    /// Values and moments of all parameters, in order.
    fn state(&self) -> Result<(Vec<f32>, Vec<usize>), NetsError> {
        let (mut floats, mut times) = (Vec::new(), Vec::new());
        for parameter in self.parameters() {
            let values = parameter.read()?;
            let size = values.len();
            floats.extend(values);
            let moments = parameter.moments()?.unwrap_or_else(|| Moments {
                time: 0,
                first: vec![0.0; size],
                second: vec![0.0; size],
            });
            floats.extend(moments.first);
            floats.extend(moments.second);
            times.push(moments.time);
        }
        Ok((floats, times))
    }

    /// False where the state is of another shape.
    fn restore(&mut self, mut floats: &[f32], times: &[usize]) -> Result<bool, NetsError> {
        let sizes: Vec<usize> = self
            .parameters()
            .map(|parameter| parameter.read().map(|values| values.len()))
            .collect::<Result<_, _>>()?;
        if times.len() != sizes.len() || floats.len() != 3 * sizes.iter().sum::<usize>() {
            return Ok(false);
        }
        let parameters = self.weights.iter_mut().chain(&mut self.biases);
        for ((parameter, size), time) in parameters.zip(sizes).zip(times) {
            let mut take = || {
                let (head, tail) = floats.split_at(size);
                floats = tail;
                head.to_vec()
            };
            let (values, first, second) = (take(), take(), take());
            let moments = (*time > 0).then_some(Moments {
                time: *time,
                first,
                second,
            });
            parameter.restore(values, moments);
        }
        Ok(true)
    }
}

impl Fitted {
    fn floats(&self) -> Vec<f32> {
        let layers = self.layers.iter();
        layers
            .flat_map(|layer| layer.weights.iter().chain(&layer.biases))
            .copied()
            .collect()
    }

    fn from_floats(architecture: &Architecture, mut floats: &[f32]) -> Option<Self> {
        let mut layers = Vec::new();
        for layer in &architecture.layers {
            let (rows, size) = (layer.rows(), layer.fan_in() * layer.rows());
            let weights = floats.get(..size)?.to_vec();
            let biases = floats.get(size..size + rows)?.to_vec();
            floats = &floats[size + rows..];
            layers.push(FittedLayer { weights, biases });
        }
        floats.is_empty().then_some(Self { layers })
    }
}

pub(super) fn save_state(
    net: &Net<'_>,
    epochs: &[Epoch],
    rng: &ChaCha20Rng,
    folder: &Folder,
) -> Result<(), NetsError> {
    let (floats, times) = net.state()?;
    let header = Header {
        run: folder.run().to_owned(),
        epoch: epochs.len(),
        loss: epochs
            .last()
            .map_or(f64::MAX, |epoch| epoch.validation_loss)
            .to_bits(),
        losses: epochs
            .iter()
            .map(|e| [e.train_loss, e.validation_loss].map(f64::to_bits))
            .collect(),
        position: rng.get_word_pos().to_string(),
        times,
        digest: String::new(),
    };
    folder.save("state", header, &floats)
}

pub(super) fn save_kept(kept: &[Candidate], folder: &Folder) -> Result<(), NetsError> {
    for (rank, (loss, epoch, fitted)) in kept.iter().enumerate() {
        let header = Header {
            run: folder.run().to_owned(),
            epoch: *epoch,
            loss: loss.to_bits(),
            losses: Vec::new(),
            position: String::new(),
            times: Vec::new(),
            digest: String::new(),
        };
        folder.save(&format!("best-{}", rank + 1), header, &fitted.floats())?;
    }
    Ok(())
}

pub(super) fn resume(
    net: &mut Net<'_>,
    epochs: &mut Vec<Epoch>,
    kept: &mut Vec<Candidate>,
    rng: &mut ChaCha20Rng,
    folder: &Folder,
) -> Result<(), NetsError> {
    let Some((header, floats)) = folder.load("state")? else {
        return Ok(());
    };
    let shape = || NetsError::Checkpoint {
        path: "state".into(),
        reason: "it is of a network of another shape".to_owned(),
    };
    let position: u128 = header.position.parse().map_err(|_| shape())?;
    if !net.restore(&floats, &header.times)? {
        return Err(shape());
    }
    rng.set_word_pos(position);
    epochs.extend(header.losses.iter().map(|losses| Epoch {
        train_loss: f64::from_bits(losses[0]),
        validation_loss: f64::from_bits(losses[1]),
    }));
    for rank in 1..=KEPT {
        let Some((header, floats)) = folder.load(&format!("best-{rank}"))? else {
            continue;
        };
        // written before the state: one that the state does not know yet is made again
        if header.epoch <= epochs.len() {
            let fitted = Fitted::from_floats(net.architecture, &floats).ok_or_else(shape)?;
            kept.push((f64::from_bits(header.loss), header.epoch, fitted));
        }
    }
    Ok(())
}
