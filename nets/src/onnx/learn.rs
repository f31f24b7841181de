//! Operators of the domain `ai.onnx.ml`, as scikit-learn's models are exported.

use super::build::Builder;
use super::proto::Node;
use super::{OnnxError, attribute, refuse};

impl Builder {
    /// `(x - offset) * scale`.
    pub(super) fn scaler(&mut self, node: &Node) -> Result<(), OnnxError> {
        let numbers = |name, default: f64| -> Result<Vec<f64>, OnnxError> {
            let floats = attribute(node, name).map_or(&[][..], |a| &a.floats[..]);
            match floats.len() {
                0 => Ok(vec![default; self.size]),
                1 => Ok(vec![f64::from(floats[0]); self.size]),
                n if n == self.size => Ok(floats.iter().map(|v| f64::from(*v)).collect()),
                n => Err(refuse(
                    node,
                    &format!(
                        "it scales {n} numbers, the layer before gives {}",
                        self.size
                    ),
                )),
            }
        };
        let (offset, scale) = (numbers("offset", 0.0)?, numbers("scale", 1.0)?);
        let shift: Vec<f64> = offset.iter().zip(&scale).map(|(o, s)| -o * s).collect();
        self.apply(node, &scale, &shift)
    }

    /// Scores of a linear model. A classifier of two classes gives the score of the second one.
    pub(super) fn linear_model(&mut self, node: &Node, classes: bool) -> Result<(), OnnxError> {
        let floats = |name| attribute(node, name).map_or(&[][..], |a| &a.floats[..]);
        let (coefficients, intercepts) = (floats("coefficients"), floats("intercepts"));
        let inputs = self.size.max(1);
        let rows = coefficients.len() / inputs;
        if rows == 0 || coefficients.len() != rows * inputs {
            return Err(if self.layers.is_empty() && intercepts.len() <= 1 {
                OnnxError::Inputs {
                    got: coefficients.len(),
                    wanted: inputs,
                }
            } else {
                refuse(
                    node,
                    &format!(
                        "its coefficients are not for {inputs} features; name the featuriser that the model was trained with"
                    ),
                )
            });
        }
        if !(intercepts.is_empty() || intercepts.len() == rows) {
            return Err(refuse(
                node,
                "it has not one intercept for each output; export the model again",
            ));
        }
        let wide = |values: &[f32]| -> Vec<f64> { values.iter().map(|v| f64::from(*v)).collect() };
        let mut weights = wide(coefficients);
        let mut biases = wide(intercepts);
        biases.resize(rows, 0.0);
        if weights.iter().chain(&biases).any(|v| !v.is_finite()) {
            return Err(refuse(node, "it holds a number that is not finite"));
        }
        if classes && rows == 2 {
            weights.drain(..inputs);
            biases.remove(0);
        }
        self.dense(weights, biases);
        Ok(())
    }
}
