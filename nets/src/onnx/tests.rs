use prost::Message;

use super::proto::{
    Attribute, Dim, Graph, Kind, Model, Node, Shape, Tensor, TensorKind, ValueInfo,
};
use super::*;

fn value(name: &str, dims: &[i64]) -> ValueInfo {
    let dims = dims.iter().map(|d| Dim { value: *d }).collect();
    let tensor = Some(TensorKind {
        shape: Some(Shape { dims }),
    });
    ValueInfo {
        name: name.to_owned(),
        kind: Some(Kind { tensor }),
    }
}

fn floats(name: &str, dims: &[i64], scale: f32) -> Tensor {
    let count: i64 = dims.iter().product();
    let number = |i: i64| scale * ((i * 7 % 11) as f32 - 4.0);
    Tensor {
        dims: dims.to_vec(),
        data_type: 1,
        name: name.to_owned(),
        floats: (0..count).map(number).collect(),
        ..Tensor::default()
    }
}

fn node(operator: &str, inputs: &[&str], output: &str) -> Node {
    Node {
        inputs: inputs.iter().map(|i| (*i).to_owned()).collect(),
        outputs: vec![output.to_owned()],
        operator: operator.to_owned(),
        ..Node::default()
    }
}

fn ints(name: &str, ints: &[i64]) -> Attribute {
    Attribute {
        name: name.to_owned(),
        ints: ints.to_vec(),
        ..Attribute::default()
    }
}

/// MatMul, Add, Tanh, Mul, BatchNormalization, Gemm, Sigmoid.
fn dense(features: i64) -> Graph {
    let statistics = ["g", "b", "m", "v"];
    let mut initializers = vec![
        floats("w1", &[features, 3], 0.01),
        floats("b1", &[3], 0.3),
        floats("k", &[1], 0.5),
        floats("w2", &[2, 3], 0.7),
        floats("b2", &[2], 0.2),
    ];
    for name in statistics {
        initializers.push(floats(name, &[3], 0.1));
    }
    // a variance is positive
    if let Some(variance) = initializers.last_mut() {
        variance.floats = vec![0.5, 1.0, 2.0];
    }
    let mut gemm = node("Gemm", &["n", "w2", "b2"], "y");
    gemm.attributes.push(Attribute {
        name: "transB".to_owned(),
        int: 1,
        ..Attribute::default()
    });
    Graph {
        nodes: vec![
            node("MatMul", &["x", "w1"], "z"),
            node("Add", &["b1", "z"], "za"),
            node("Tanh", &["za"], "a"),
            node("Mul", &["a", "k"], "s"),
            node("BatchNormalization", &["s", "g", "b", "m", "v"], "n"),
            gemm,
            node("Sigmoid", &["y"], "p"),
        ],
        initializers,
        inputs: vec![value("x", &[0, features])],
        outputs: vec![value("p", &[0, 2])],
    }
}

fn bytes(graph: Graph) -> Vec<u8> {
    Model { graph: Some(graph) }.encode_to_vec()
}

fn featuriser() -> Featuriser {
    crate::ReadOptions::default().featuriser
}

#[test]
fn scaling_and_normalisation_are_folded_exactly() {
    let featuriser = featuriser();
    let features = featuriser.len();
    let graph = dense(features as i64);
    let model = read_onnx(&bytes(graph.clone()), &featuriser).unwrap();
    assert_eq!((model.outputs, model.net.layers.len()), (2, 2));
    assert_eq!(model.final_activation, FinalActivation::Sigmoid);
    assert_eq!(model.notes.len(), 1);
    let of = |name: &str| -> Vec<f64> {
        let tensor = graph.initializers.iter().find(|t| t.name == name).unwrap();
        tensor.floats.iter().map(|v| f64::from(*v)).collect()
    };
    let x: Vec<u16> = (0..features).map(|i| (i % 5 == 0).into()).collect();
    let (w1, b1, w2, b2) = (of("w1"), of("b1"), of("w2"), of("b2"));
    let [g, b, m, v] = ["g", "b", "m", "v"].map(of);
    let hidden: Vec<f64> = (0..3)
        .map(|o| {
            let sum: f64 = (0..features).map(|i| w1[i * 3 + o] * f64::from(x[i])).sum();
            let s = (sum + b1[o]).tanh() * of("k")[0];
            g[o] * (s - m[o]) / (v[o] + 1e-5).sqrt() + b[o]
        })
        .collect();
    for (o, got) in model.net.evaluate(&x).iter().enumerate() {
        let wanted: f64 = (0..3).map(|i| w2[o * 3 + i] * hidden[i]).sum::<f64>() + b2[o];
        assert!((got - wanted).abs() < 1e-9, "{got} {wanted}");
    }
}

#[test]
fn convolution_and_pooling_agree_with_their_definition() {
    let featuriser = featuriser();
    let side = 1i64 << (featuriser.len().trailing_zeros() / 2);
    let wide = featuriser.len() as i64 / side;
    let mut conv = node("Conv", &["x", "f", "c"], "z");
    conv.attributes = vec![ints("strides", &[2, 2]), ints("kernel_shape", &[2, 2])];
    let mut pool = node("AveragePool", &["a"], "q");
    pool.attributes = vec![ints("kernel_shape", &[2, 2]), ints("strides", &[2, 2])];
    let (h, w) = (side as usize / 4, wide as usize / 4);
    let graph = Graph {
        nodes: vec![
            conv,
            node("Relu", &["z"], "a"),
            pool,
            node("Flatten", &["q"], "l"),
            node("MatMul", &["l", "w"], "y"),
        ],
        initializers: vec![
            floats("f", &[2, 1, 2, 2], 0.3),
            floats("c", &[2], 0.2),
            floats("w", &[(2 * h * w) as i64, 1], 0.05),
        ],
        inputs: vec![value("x", &[0, 1, side, wide])],
        outputs: vec![value("y", &[0, 1])],
    };
    let model = read_onnx(&bytes(graph.clone()), &featuriser).unwrap();
    let x: Vec<u16> = (0..featuriser.len())
        .map(|i| (i * 13 % 7 % 3) as u16)
        .collect();
    let of = |at: usize, i: usize| f64::from(graph.initializers[at].floats[i]);
    let hidden = |f: usize, y: usize, px: usize| {
        let tap = |t: usize| f64::from(x[(2 * y + t / 2) * wide as usize + 2 * px + t % 2]);
        ((0..4).map(|t| of(0, f * 4 + t) * tap(t)).sum::<f64>() + of(1, f)).max(0.0)
    };
    let mut wanted = 0.0;
    for i in 0..2 * h * w {
        let (f, y, px) = (i / (h * w), i / w % h, i % w);
        let pooled: f64 = (0..4)
            .map(|t| hidden(f, 2 * y + t / 2, 2 * px + t % 2))
            .sum();
        wanted += of(2, i) * pooled / 4.0;
    }
    let got = model.net.evaluate(&x)[0];
    assert!((got - wanted).abs() < 1e-9, "{got} {wanted}");
}

#[test]
fn what_is_unsupported_is_named_with_its_node() {
    let featuriser = featuriser();
    let mut graph = dense(featuriser.len() as i64);
    graph.nodes[2] = node("Erf", &["za"], "a");
    graph.nodes[2].name = "/layers.1/Erf".to_owned();
    let error = read_onnx(&bytes(graph), &featuriser)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("/layers.1/Erf") && error.contains("retrain"),
        "{error}"
    );
    let mut graph = dense(featuriser.len() as i64);
    graph.nodes[3] = node("Add", &["a", "za"], "s");
    let error = read_onnx(&bytes(graph), &featuriser)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("\"s\" (Add)") && error.contains("chain"),
        "{error}"
    );
    let error = read_onnx(&bytes(dense(10)), &featuriser).unwrap_err();
    assert!(
        matches!(error, OnnxError::Inputs { got: 10, .. }),
        "{error}"
    );
}

#[test]
fn damaged_files_never_panic() {
    let featuriser = featuriser();
    let good = bytes(dense(featuriser.len() as i64));
    for length in (0..good.len()).step_by(good.len() / 200 + 1) {
        assert!(read_onnx(&good[..length], &featuriser).is_err());
    }
    for seed in 0..400usize {
        let mut bad = good.clone();
        // half of them in the graph's structure at the start
        let span = if seed % 2 == 0 { 300 } else { good.len() };
        bad[seed * 7919 % span] ^= 1 << (seed % 8);
        let _ = read_onnx(&bad, &featuriser);
    }
    let mut graph = dense(featuriser.len() as i64);
    graph.initializers[0].dims = vec![i64::MAX, i64::MAX];
    let error = read_onnx(&bytes(graph), &featuriser).unwrap_err();
    assert!(matches!(error, OnnxError::TooLarge { .. }), "{error}");
}

/// Gemm, then `0.3 - 0.2 x + 0.7 x²` in the spelling of PyTorch, then Gemm.
fn polynomial(features: i64) -> Graph {
    let number = |name: &str, value: f32| Tensor {
        data_type: 1,
        name: name.to_owned(),
        floats: vec![value],
        ..Tensor::default()
    };
    Graph {
        nodes: vec![
            node("MatMul", &["x", "w1"], "z"),
            node("Mul", &["z", "minus"], "u"),
            node("Pow", &["z", "two"], "p"),
            node("Mul", &["seven", "p"], "q"),
            node("Add", &["u", "three"], "v"),
            node("Add", &["v", "q"], "a"),
            node("MatMul", &["a", "w2"], "y"),
        ],
        initializers: vec![
            floats("w1", &[features, 3], 0.01),
            floats("w2", &[3, 2], 0.5),
            number("minus", -0.2),
            number("two", 2.0),
            number("seven", 0.7),
            number("three", 0.3),
        ],
        inputs: vec![value("x", &[0, features])],
        outputs: vec![value("y", &[0, 2])],
    }
}

#[test]
fn polynomials_that_are_spelled_out_become_an_activation() {
    let featuriser = featuriser();
    let features = featuriser.len();
    let graph = polynomial(features as i64);
    let model = read_onnx(&bytes(graph.clone()), &featuriser).unwrap();
    assert_eq!(model.net.layers.len(), 2);
    let weights = |at: usize| -> Vec<f64> {
        let floats = &graph.initializers[at].floats;
        floats.iter().map(|v| f64::from(*v)).collect()
    };
    let (w1, w2) = (weights(0), weights(1));
    let x: Vec<u16> = (0..features).map(|i| (i % 3) as u16).collect();
    let hidden = |o: usize| {
        let z: f64 = (0..features).map(|i| w1[i * 3 + o] * f64::from(x[i])).sum();
        f64::from(0.3f32) + f64::from(-0.2f32) * z + f64::from(0.7f32) * z * z
    };
    for (o, got) in model.net.evaluate(&x).iter().enumerate() {
        let wanted: f64 = (0..3).map(|i| w2[i * 2 + o] * hidden(i)).sum();
        assert!((got - wanted).abs() < 1e-9, "{got} {wanted}");
    }
}

#[test]
fn polynomials_of_higher_degree_are_refused_by_name() {
    let featuriser = featuriser();
    let mut graph = polynomial(featuriser.len() as i64);
    graph.nodes[3] = node("Mul", &["z", "p"], "q");
    let error = read_onnx(&bytes(graph), &featuriser).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("\"q\" (Mul)") && text.contains("degree two"),
        "{text}"
    );
}

#[test]
fn raw_numbers_are_read_like_listed_ones() {
    let featuriser = featuriser();
    let graph = dense(featuriser.len() as i64);
    let listed = read_onnx(&bytes(graph.clone()), &featuriser).unwrap();
    for (data_type, wide) in [(1, false), (11, true)] {
        let mut graph = graph.clone();
        for tensor in &mut graph.initializers {
            let floats = std::mem::take(&mut tensor.floats);
            tensor.data_type = data_type;
            tensor.raw = if wide {
                floats
                    .iter()
                    .flat_map(|v| f64::from(*v).to_le_bytes())
                    .collect()
            } else {
                floats.iter().flat_map(|v| v.to_le_bytes()).collect()
            };
        }
        let raw = read_onnx(&bytes(graph), &featuriser).unwrap();
        assert_eq!(raw.net, listed.net);
    }
}

fn listed(name: &str, floats: &[f32]) -> Attribute {
    Attribute {
        name: name.to_owned(),
        floats: floats.to_vec(),
        ..Attribute::default()
    }
}

/// As scikit-learn's StandardScaler and LogisticRegression are exported.
#[test]
fn scalers_and_linear_models_of_scikit_learn_are_read() {
    let featuriser = featuriser();
    let features = featuriser.len();
    let number = |i: usize| ((i * 5 % 13) as f32 - 6.0) / 8.0;
    let of = |from: usize, count: usize| -> Vec<f32> { (from..from + count).map(number).collect() };
    let (offset, scale) = (of(1, features), of(4, features));
    let mut scaler = node("Scaler", &["x"], "s");
    scaler.attributes = vec![listed("offset", &offset), listed("scale", &scale)];
    let x: Vec<u16> = (0..features).map(|i| (i % 4) as u16).collect();
    for (operator, rows, kept) in [
        ("LinearRegressor", 1, 0..1),
        ("LinearRegressor", 2, 0..2),
        ("LinearClassifier", 2, 1..2),
        ("LinearClassifier", 3, 0..3),
    ] {
        let (coefficients, intercepts) = (of(2, rows * features), of(7, rows));
        let mut model = node(operator, &["s"], "label");
        model.attributes = vec![
            listed("coefficients", &coefficients),
            listed("intercepts", &intercepts),
        ];
        let mut nodes = vec![scaler.clone(), model];
        if operator == "LinearClassifier" {
            nodes[1].outputs.push("scores".to_owned());
            nodes.push(node("Normalizer", &["scores"], "p"));
        }
        let graph = Graph {
            nodes,
            // names of the classes, int32
            initializers: vec![Tensor {
                dims: vec![2],
                data_type: 6,
                name: "classes".to_owned(),
                ..Tensor::default()
            }],
            inputs: vec![value("x", &[0, features as i64])],
            outputs: vec![value("label", &[0, rows as i64])],
        };
        let model = read_onnx(&bytes(graph), &featuriser).unwrap();
        let got = model.net.evaluate(&x);
        assert_eq!(got.len(), kept.len());
        for (got, row) in got.iter().zip(kept) {
            let term = |i: usize| {
                let scaled = (f64::from(x[i]) - f64::from(offset[i])) * f64::from(scale[i]);
                f64::from(coefficients[row * features + i]) * scaled
            };
            let wanted = (0..features).map(term).sum::<f64>() + f64::from(intercepts[row]);
            assert!((got - wanted).abs() < 1e-9, "{operator} {got} {wanted}");
        }
    }
}
