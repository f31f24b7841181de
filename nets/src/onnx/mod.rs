//! ONNX networks (PyTorch, scikit-learn) as float networks, ready for quantisation.
//!
//! A graph must be a chain: linear maps, elementwise scaling and activations, each on the result of
//! the one before; only polynomials of degree two may be spelled out in several nodes. Scaling and batch normalisation are folded into the linear maps exactly; a final
//! sigmoid or softmax is dropped, since log-odds and scores are what is released.

mod build;
mod image;
mod learn;
mod polynomial;
mod proto;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};

use chemxor_core::Featuriser;
use chemxor_fhe::network::float::FloatNet;
use prost::Message;

use build::Builder;
use polynomial::Polynomials;
use proto::{Attribute, Graph, Model, Node, Tensor, ValueInfo};

/// Largest file, bytes.
const MOST_BYTES: usize = 64 << 20;
/// Most nodes of a graph.
const MOST_NODES: usize = 1000;
/// Most numbers of a tensor, and of the weight matrix of a layer.
const MOST_NUMBERS: usize = 1 << 24;

/// What was left out after the last layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinalActivation {
    /// Outputs are values, as in the file.
    None,
    /// Outputs are log-odds.
    Sigmoid,
    /// Outputs are scores of the classes, up to a common constant.
    Softmax,
}

/// A network that was read.
#[derive(Debug, Clone)]
pub struct OnnxModel {
    /// Over the features of the featuriser.
    pub net: FloatNet,
    /// Number of outputs.
    pub outputs: usize,
    /// What was dropped at the end.
    pub final_activation: FinalActivation,
    /// What the reader did that a publisher should know.
    pub notes: Vec<String>,
}

/// Why a file was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OnnxError {
    /// Not an ONNX file, or a damaged one.
    #[error("this is no readable ONNX file: {0}; export the model again")]
    Format(String),
    /// Beyond a bound of the reader.
    #[error("the ONNX file has {what} {got}, at most {most} are read; export a smaller network")]
    TooLarge {
        /// What.
        what: &'static str,
        /// How many.
        got: usize,
        /// How many are allowed.
        most: usize,
    },
    /// The network is not for this featuriser.
    #[error(
        "the network takes {got} features, the featuriser gives {wanted}; name the featuriser that the network was trained with"
    )]
    Inputs {
        /// Of the network.
        got: usize,
        /// Of the featuriser.
        wanted: usize,
    },
    /// An operator, or a use of it, that is not supported.
    #[error("node {node:?} ({operator}): {reason}")]
    Node {
        /// Its name, or the name of its result.
        node: String,
        /// Its operator.
        operator: String,
        /// Why, and the next step.
        reason: String,
    },
    /// No layer.
    #[error(
        "the graph has no linear layer; export a network with at least one Gemm, MatMul or Conv"
    )]
    NoLayer,
}

/// A constant tensor.
#[derive(Debug, Clone)]
struct Constant {
    dims: Vec<usize>,
    values: Vec<f64>,
}

/// Reads a network; its input are the features of `featuriser`, in order.
pub fn read_onnx(bytes: &[u8], featuriser: &Featuriser) -> Result<OnnxModel, OnnxError> {
    bound("bytes", bytes.len(), MOST_BYTES)?;
    let model = Model::decode(bytes).map_err(|error| OnnxError::Format(error.to_string()))?;
    let graph = model
        .graph
        .ok_or_else(|| OnnxError::Format("it holds no graph".to_owned()))?;
    bound("nodes", graph.nodes.len(), MOST_NODES)?;
    let mut constants = HashMap::new();
    for tensor in &graph.initializers {
        // names of classes and such, which only the nodes after the last layer use
        if is_numeric(tensor) {
            constants.insert(tensor.name.clone(), constant(tensor)?);
        }
    }
    let named: HashSet<&String> = graph.initializers.iter().map(|t| &t.name).collect();
    let is_input = |value: &&ValueInfo| !named.contains(&value.name);
    let inputs: Vec<&ValueInfo> = graph.inputs.iter().filter(is_input).collect();
    let [input] = inputs[..] else {
        let text = format!("the graph has {} inputs, one is read", inputs.len());
        return Err(OnnxError::Format(text));
    };
    let mut builder = Builder::new(&dims(input), featuriser)?;
    let final_activation = walk(&graph, &input.name, &mut constants, &mut builder)?;
    let (net, notes) = builder.finish(featuriser)?;
    Ok(OnnxModel {
        outputs: net.layers.last().map_or(0, |layer| layer.biases.len()),
        net,
        final_activation,
        notes,
    })
}

fn walk(
    graph: &Graph,
    input: &str,
    constants: &mut HashMap<String, Constant>,
    builder: &mut Builder,
) -> Result<FinalActivation, OnnxError> {
    let mut current = input.to_owned();
    let mut polynomials = Polynomials::default();
    for (at, node) in graph.nodes.iter().enumerate() {
        let Some(result) = node.outputs.first() else {
            return Err(refuse(node, "it has no result; export the model again"));
        };
        if node.operator == "Constant" {
            let value = attribute(node, "value").and_then(|value| value.tensor.as_ref());
            let value = value.ok_or_else(|| {
                refuse(
                    node,
                    "only tensors are read as constants; simplify the graph before",
                )
            })?;
            constants.insert(result.clone(), constant(value)?);
            continue;
        }
        if is_cast(node)
            && let Some(value) = node.inputs.first().and_then(|from| constants.get(from))
        {
            let value = value.clone();
            constants.insert(result.clone(), value);
            continue;
        }
        if polynomials.take(graph, node, result, &current, constants)? {
            continue;
        }
        for name in &node.inputs {
            if let Some(found) = polynomials.close(name) {
                builder.polynomial(node, found)?;
                current.clone_from(name);
            }
        }
        let moving = |name: &&String| !name.is_empty() && !constants.contains_key(*name);
        let inputs: Vec<&String> = node.inputs.iter().filter(moving).collect();
        if inputs.len() != 1 || *inputs[0] != current {
            return Err(refuse(
                node,
                "the graph is not a chain here (it joins or branches, or computes with constants only); export the network without skip connections and after constant folding",
            ));
        }
        let ends = matches!(node.operator.as_str(), "Sigmoid" | "Softmax" | "LogSoftmax");
        let linear = |node: &Node| {
            matches!(
                node.operator.as_str(),
                "Gemm" | "MatMul" | "Conv" | "LinearRegressor" | "LinearClassifier"
            )
        };
        if ends && !graph.nodes[at + 1..].iter().any(linear) {
            let rest = graph.nodes.len() - at - 1;
            builder.notes.push(format!(
                "the final {} and {rest} nodes after it are left out: the model releases scores before it",
                node.operator
            ));
            return Ok(if node.operator == "Sigmoid" {
                FinalActivation::Sigmoid
            } else {
                FinalActivation::Softmax
            });
        }
        builder.node(node, &current, constants)?;
        current.clone_from(result);
        if node.operator == "LinearClassifier" {
            builder.notes.push(format!(
                "the {} nodes after the classifier are left out: the model releases its scores",
                graph.nodes.len() - at - 1
            ));
            return Ok(if builder.size == 1 {
                FinalActivation::Sigmoid
            } else {
                FinalActivation::Softmax
            });
        }
    }
    if let (Some(node), [output]) = (graph.nodes.last(), &graph.outputs[..])
        && let Some(found) = polynomials.close(&output.name)
    {
        builder.polynomial(node, found)?;
        current.clone_from(&output.name);
    }
    if graph.outputs.iter().all(|output| output.name != current) {
        return Err(OnnxError::Format(format!(
            "{current:?}, the last result, is no output of the graph"
        )));
    }
    Ok(FinalActivation::None)
}

fn is_cast(node: &Node) -> bool {
    matches!(node.operator.as_str(), "Identity" | "Cast" | "Dropout")
}

fn bound(what: &'static str, got: usize, most: usize) -> Result<(), OnnxError> {
    if got <= most {
        Ok(())
    } else {
        Err(OnnxError::TooLarge { what, got, most })
    }
}

fn refuse(node: &Node, reason: &str) -> OnnxError {
    let named = Some(&node.name).filter(|name| !name.is_empty());
    OnnxError::Node {
        node: named.or(node.outputs.first()).cloned().unwrap_or_default(),
        operator: node.operator.clone(),
        reason: reason.to_owned(),
    }
}

fn attribute<'a>(node: &'a Node, name: &str) -> Option<&'a Attribute> {
    node.attributes.iter().find(|a| a.name == name)
}

/// Sizes of an input; 0 where the file gives a name or nothing.
fn dims(value: &ValueInfo) -> Vec<i64> {
    let tensor = value.kind.as_ref().and_then(|kind| kind.tensor.as_ref());
    let shape = tensor.and_then(|tensor| tensor.shape.as_ref());
    shape.map_or_else(Vec::new, |shape| {
        shape.dims.iter().map(|d| d.value).collect()
    })
}

fn is_numeric(tensor: &Tensor) -> bool {
    matches!(tensor.data_type, 1 | 7 | 11)
}

fn constant(tensor: &Tensor) -> Result<Constant, OnnxError> {
    let wrong = |what: &str| OnnxError::Format(format!("tensor {:?} {what}", tensor.name));
    let mut count = 1usize;
    let mut dims = Vec::new();
    for dim in &tensor.dims {
        let dim = usize::try_from(*dim).map_err(|_| wrong("has a negative size"))?;
        count = count.saturating_mul(dim);
        dims.push(dim);
    }
    bound("numbers in a tensor", count, MOST_NUMBERS)?;
    let raw = &tensor.raw;
    let values: Vec<f64> = match tensor.data_type {
        1 if raw.is_empty() => tensor.floats.iter().map(|v| f64::from(*v)).collect(),
        1 => raw
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| f64::from(f32::from_le_bytes(*b)))
            .collect(),
        7 if raw.is_empty() => tensor.ints.iter().map(|v| *v as f64).collect(),
        7 => raw
            .as_chunks::<8>()
            .0
            .iter()
            .map(|b| i64::from_le_bytes(*b) as f64)
            .collect(),
        11 if raw.is_empty() => tensor.doubles.clone(),
        11 => raw
            .as_chunks::<8>()
            .0
            .iter()
            .map(|b| f64::from_le_bytes(*b))
            .collect(),
        _ => {
            return Err(wrong(
                "is neither float32, float64 nor int64; export in float32",
            ));
        }
    };
    if values.len() != count {
        return Err(wrong("does not hold as many numbers as its shape says"));
    }
    if values.iter().any(|value| !value.is_finite()) {
        return Err(wrong("holds a number that is not finite"));
    }
    Ok(Constant { dims, values })
}
