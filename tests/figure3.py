"""Figure 3 of the paper, word for word: the second reference, next to the parity files.

Nothing here is shared with ``sktrm``; the tests hold the two against each other.
"""

import torch
import torch.nn.functional as F


def latent_recursion(net, x, y, z, n=6):
    for _ in range(n):  # latent reasoning
        z = net(x + y + z)
    y = net(y + z)  # refine output answer
    return y, z


def deep_recursion(net, output_head, q_head, x, y, z, n=6, T=3):
    # recursing T-1 times to improve y and z (no gradients needed)
    with torch.no_grad():
        for _ in range(T - 1):
            y, z = latent_recursion(net, x, y, z, n)
    # recursing once to improve y and z
    y, z = latent_recursion(net, x, y, z, n)
    return (y.detach(), z.detach()), output_head(y), q_head(y)


def deep_supervision(
    net, embed, heads, optimizer, x_input, y_true, y, z, *, n, T, n_sup
):
    losses = []
    for _ in range(n_sup):
        x = embed(x_input)
        (y, z), y_hat, q_hat = deep_recursion(net, *heads, x, y, z, n, T)
        loss = F.cross_entropy(y_hat.transpose(1, 2), y_true)
        right = (y_hat.argmax(dim=-1) == y_true).all(dim=-1).to(q_hat)
        loss = loss + 0.5 * F.binary_cross_entropy_with_logits(q_hat, right)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if (q_hat > 0).all():  # early-stopping
            break
    return losses
