//! The trained model in floating point, in the units of the endpoint and over all features.

use chemxor_core::Featuriser;
use chemxor_core::{Expansion, OutputScaling, StepGraph};
use chemxor_fhe::network::StepWeights;
use chemxor_fhe::network::activation::Activation;
use chemxor_fhe::network::float::{FloatLayer, FloatMap, FloatNet, IntegerNet, Precision};

use crate::error::NetsError;
use crate::trees::{self, TreeModel};

/// Ready to predict, and to be quantised.
#[derive(Debug, Clone)]
pub(crate) enum FloatModel {
    /// Linear models and networks.
    Net(FloatNet),
    /// Boosted trees and forests, with the featuriser whose grid they split.
    Trees(TreeModel, Featuriser),
}

/// Integers, plan and scaling.
#[derive(Debug, Clone)]
pub(crate) struct Quantised {
    pub(crate) weights: Vec<StepWeights>,
    pub(crate) graph: StepGraph,
    pub(crate) outputs: Vec<OutputScaling>,
    /// Ranges of the pre-activations; empty where nothing can wrap.
    net: Option<IntegerNet>,
}

impl FloatModel {
    /// `w x + c` for each output.
    pub(crate) fn linear(
        featuriser: &Featuriser,
        weights: &[Vec<f64>],
        intercepts: Vec<f64>,
    ) -> Self {
        Self::Net(FloatNet {
            expansion: Expansion::None,
            input_bits: (u16::BITS - featuriser.max_value().leading_zeros()).max(1) as u8,
            layers: vec![FloatLayer {
                map: FloatMap::Dense(weights.concat()),
                biases: intercepts,
                activation: Activation::Identity,
            }],
        })
    }

    /// Values, or log-odds, or scores of the classes.
    pub(crate) fn predict(&self, features: &[u16]) -> Vec<f64> {
        match self {
            Self::Net(net) => net.evaluate(features),
            Self::Trees(model, _) => model.predict(features),
        }
    }

    /// Hidden layers whose precision can be chosen.
    pub(crate) fn hidden_steps(&self) -> usize {
        match self {
            Self::Net(net) => net.layers.len().saturating_sub(1),
            Self::Trees(..) => 0,
        }
    }

    /// Integers, with ranges calibrated on these molecules; `bits` are those of the hidden steps.
    pub(crate) fn quantise(
        &self,
        calibration: &[Vec<u16>],
        bits: &[u8],
        output_bits: u8,
    ) -> Result<Quantised, NetsError> {
        match self {
            Self::Trees(model, featuriser) => {
                let (graph, weights, outputs) = trees::quantise(model, featuriser, output_bits)?;
                Ok(Quantised {
                    weights,
                    graph,
                    outputs,
                    net: None,
                })
            }
            Self::Net(net) => {
                let precision = Precision {
                    activation_bits: bits.to_vec(),
                    ..Precision::uniform(8, 0, output_bits)
                };
                let integers = net.quantise(calibration, &precision)?;
                Ok(Quantised {
                    weights: integers.weights.clone(),
                    graph: integers.graph.clone(),
                    outputs: integers
                        .outputs
                        .iter()
                        .map(|(scale, offset)| OutputScaling::new(*scale, *offset))
                        .collect(),
                    net: Some(integers),
                })
            }
        }
    }

    /// Whether some pre-activation of the molecule leaves its calibrated range and wraps.
    pub(crate) fn wraps(&self, quantised: &Quantised, features: &[u16]) -> bool {
        let (Self::Net(net), Some(integers)) = (self, &quantised.net) else {
            return false;
        };
        net.pre_activations(features)
            .iter()
            .zip(&integers.ranges)
            .any(|(z, ranges)| {
                let sharing = z.len() / ranges.len().max(1);
                z.iter().enumerate().any(|(at, z)| {
                    let range = ranges[at / sharing.max(1)];
                    (z - range.centre).abs() >= range.half
                })
            })
    }
}
