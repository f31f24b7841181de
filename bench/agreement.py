"""Compares `chemxor features` with RDKit on every molecule of the CSV files in a folder.

    python3 bench/agreement.py CHEMXOR FOLDER [--quick]

One row a quantity on standard output: molecules compared, equal ones, their share; then one row a
differing molecule and quantity. Real values are equal within 0.001. Files need a column `smiles`.
"""
import csv
import pathlib
import subprocess
import sys
import tempfile

from rdkit import Chem, RDLogger
from rdkit.Chem import Crippen, Descriptors, rdFingerprintGenerator, rdMolDescriptors

RDLogger.DisableLog("rdApp.*")
ECFP4 = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
FCFP6 = rdFingerprintGenerator.GetMorganGenerator(
    radius=3, fpSize=1024, atomInvariantsGenerator=rdFingerprintGenerator.GetMorganFeatureAtomInvGen()
)
DESCRIPTORS = {
    "mol_wt": Descriptors.MolWt,
    "crippen_logp": Crippen.MolLogP,
    "tpsa": rdMolDescriptors.CalcTPSA,
    "hbd": rdMolDescriptors.CalcNumHBD,
    "hba": rdMolDescriptors.CalcNumHBA,
    "rotatable_bonds": rdMolDescriptors.CalcNumRotatableBonds,
    "ring_count": rdMolDescriptors.CalcNumRings,
    "aromatic_rings": rdMolDescriptors.CalcNumAromaticRings,
    "heavy_atoms": lambda mol: mol.GetNumHeavyAtoms(),
    "fraction_csp3": rdMolDescriptors.CalcFractionCSP3,
}


def counts(generator, mol):
    found = generator.GetCountFingerprint(mol).GetNonzeroElements()
    return " ".join(f"{index}:{value}" for index, value in sorted(found.items()))


def bits(mol):
    return " ".join(map(str, ECFP4.GetFingerprint(mol).GetOnBits()))


def ours(chemxor, table, featuriser, folder):
    output = folder / f"{featuriser}.csv"
    command = [chemxor, "features", "--quiet", "--featuriser", featuriser]
    command += ["--input", table, "--output", output]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return list(csv.DictReader(output.open(newline="")))


def main():
    chemxor, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    smiles = []
    for path in sorted(folder.glob("*.csv")):
        with path.open(newline="") as file:
            smiles += [row["smiles"] for row in csv.DictReader(file) if row.get("smiles")]
    smiles = list(dict.fromkeys(smiles))
    if "--quick" in sys.argv:
        smiles = smiles[::10]
    with tempfile.TemporaryDirectory() as name:
        work = pathlib.Path(name)
        table = work / "molecules.csv"
        with table.open("w", newline="") as file:
            csv.writer(file).writerows([["smiles"], *([text] for text in smiles)])
        names = ["ecfp4-counts", "ecfp4-bits", "fcfp6-counts", "descriptors"]
        tables = {name: ours(chemxor, table, name, work) for name in names}
    kinds = ["readable", "ecfp4-counts", "ecfp4-bits", "fcfp6-counts", *DESCRIPTORS]
    compared, differing = dict.fromkeys(kinds, 0), {kind: [] for kind in kinds}
    for at, text in enumerate(smiles):
        rows = {name: table[at] for name, table in tables.items()}
        assert all(row["smiles"] == text for row in rows.values()), "a row was shifted"
        mol = Chem.MolFromSmiles(text)
        readable = mol is not None and mol.GetNumAtoms() > 0
        verdict = rows["ecfp4-counts"]["status"] == "ok"
        compared["readable"] += 1
        if readable != verdict:
            differing["readable"].append((text, verdict, readable))
        if not (readable and verdict):
            continue
        pairs = [
            ("ecfp4-counts", rows["ecfp4-counts"]["counts"], counts(ECFP4, mol)),
            ("ecfp4-bits", rows["ecfp4-bits"]["bits"], bits(mol)),
            ("fcfp6-counts", rows["fcfp6-counts"]["counts"], counts(FCFP6, mol)),
        ]
        for name, function in DESCRIPTORS.items():
            pairs.append((name, float(rows["descriptors"][name]), float(function(mol))))
        for kind, got, wanted in pairs:
            compared[kind] += 1
            equal = got == wanted if isinstance(got, str) else abs(got - wanted) <= 1e-3
            if not equal:
                differing[kind].append((text, got, wanted))
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(["quantity", "compared", "equal", "share"])
    for kind in kinds:
        equal = compared[kind] - len(differing[kind])
        out.writerow([kind, compared[kind], equal, f"{equal / max(compared[kind], 1):.5f}"])
    out.writerow([])
    out.writerow(["quantity", "smiles", "chemxor", "rdkit"])
    for kind in kinds:
        for text, got, wanted in differing[kind]:
            short = [value[:60] if isinstance(value, str) else value for value in (got, wanted)]
            out.writerow([kind, text, *short])


main()
