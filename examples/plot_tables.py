"""
Rules between columns
=====================

A label that follows rules between columns: the classifier learns the rules, trees cut
the table into boxes, and a perceptron needs its columns prepared.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from sktrm import TRMClassifier
from sktrm.metrics import expected_calibration_error

# %%
# A table
# -------
# Two addresses pick two of four switches; the label says whether these agree. Weight
# and colour have no say. Some values are missing.


def make_parts(n_rows, random):
    X = pd.DataFrame(
        {
            "first": pd.Categorical(random.choice(list("ABCD"), n_rows)),
            "second": pd.Categorical(random.choice(list("ABCD"), n_rows)),
            **{name: random.randint(2, size=n_rows) for name in "ABCD"},
            "weight": random.lognormal(size=n_rows),
            "colour": pd.Categorical(random.choice(["red", "green"], n_rows)),
        }
    )
    switches, rows = X[list("ABCD")].to_numpy(), np.arange(n_rows)
    agree = (
        switches[rows, X["first"].cat.codes] == switches[rows, X["second"].cat.codes]
    )
    X.loc[::20, "weight"] = np.nan
    return X, np.where(agree, "pass", "fail")


random = np.random.RandomState(0)
X_test, y_test = make_parts(2000, random)
X_train, y_train = make_parts(800, random)

# %%
# Three classifiers
# -----------------
# The tiny recursive network and the trees take the table as it is.

words = ["first", "second", "colour"]
columns = make_column_transformer((OneHotEncoder(), words), remainder=StandardScaler())
models = {
    "TRM": TRMClassifier(max_epochs=80, random_state=0),
    "trees": HistGradientBoostingClassifier(
        categorical_features="from_dtype", random_state=0
    ),
    "perceptron": make_pipeline(
        columns, MLPClassifier((128, 128), max_iter=500, random_state=0)
    ),
}

# %%
# How they learn
# --------------
# Accuracy on unseen rows, the more rows there are to learn from.

sizes = [200, 400, 800]
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
for name, model in models.items():
    accuracy = []
    for size in sizes:
        # The perceptron knows no missing values.
        fill = 0 if name == "perceptron" else np.nan
        model.fit(X_train[:size].fillna({"weight": fill}), y_train[:size])
        accuracy.append(model.score(X_test.fillna({"weight": fill}), y_test))
    left.plot(sizes, accuracy, marker="o", label=name)
    proba = model.predict_proba(X_test.fillna({"weight": fill}))
    error = expected_calibration_error(y_test, proba, classes=model.classes_)
    print(f"{name}: {accuracy[-1]:.3f} right, calibration error {error:.3f}")
    right.hist(proba.max(axis=1), bins=20, range=(0.5, 1), histtype="step", label=name)
left.set(xlabel="rows to learn from", ylabel="accuracy", xscale="log")
left.set_xticks(sizes, sizes, minor=False)
left.minorticks_off()
left.legend()
right.set(xlabel="probability of the label predicted", ylabel="unseen rows")
plt.show()
