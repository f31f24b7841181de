//! A trainable tensor with its optimiser.

use burn::optim::{AdamW, AdamWConfig, AdamWState, AdaptiveMomentumState, Optimizer};
use burn::tensor::{Device, Gradients, Tensor, TensorData};

use crate::error::NetsError;

/// Values, gradients and moments of one matrix.
pub(super) struct Parameter {
    pub(super) value: Tensor<2>,
    state: Option<AdamWState<2>>,
    optimizer: AdamW,
    shape: [usize; 2],
    device: Device,
}

/// What an optimiser remembers.
pub(super) struct Moments {
    pub(super) time: usize,
    pub(super) first: Vec<f32>,
    pub(super) second: Vec<f32>,
}

impl Parameter {
    pub(super) fn new(
        values: Vec<f32>,
        shape: [usize; 2],
        weight_decay: f64,
        device: &Device,
    ) -> Self {
        let value = Tensor::<2>::from_data(TensorData::new(values, shape), device);
        let optimizer = AdamWConfig::new()
            .with_weight_decay(weight_decay as f32)
            .build();
        Self {
            value: value.autodiff().require_grad(),
            state: None,
            optimizer,
            shape,
            device: device.clone(),
        }
    }

    pub(super) fn step(&mut self, rate: f64, gradients: &mut Gradients) {
        if let Some(gradient) = self.value.grad_remove(gradients) {
            self.step_by(rate, gradient);
        }
    }

    /// With a gradient that was made elsewhere.
    pub(super) fn step_by(&mut self, rate: f64, gradient: Tensor<2>) {
        let value = self.value.clone().inner();
        let (value, state) = self
            .optimizer
            .step(rate, value, gradient, self.state.take());
        self.value = value.autodiff().require_grad();
        self.state = state;
    }

    pub(super) fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// Without its history.
    pub(super) fn inner(&self) -> Tensor<2> {
        self.value.clone().inner()
    }

    pub(super) fn read(&self) -> Result<Vec<f32>, NetsError> {
        read(self.inner())
    }

    pub(super) fn moments(&self) -> Result<Option<Moments>, NetsError> {
        let Some(state) = &self.state else {
            return Ok(None);
        };
        Ok(Some(Moments {
            time: state.momentum.time,
            first: read(state.momentum.moment_1.clone())?,
            second: read(state.momentum.moment_2.clone())?,
        }))
    }

    /// Goes on from a saved state.
    pub(super) fn restore(&mut self, values: Vec<f32>, moments: Option<Moments>) {
        let tensor =
            |values| Tensor::<2>::from_data(TensorData::new(values, self.shape), &self.device);
        self.value = tensor(values).autodiff().require_grad();
        self.state = moments.map(|moments| {
            let Moments {
                time,
                first,
                second,
            } = moments;
            AdamWState::new(AdaptiveMomentumState::new(
                time,
                tensor(first),
                tensor(second),
            ))
        });
    }
}

pub(super) fn read<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, NetsError> {
    tensor
        .try_into_vec_as::<f32>()
        .map_err(|error| NetsError::Tensor(error.to_string()))
}
