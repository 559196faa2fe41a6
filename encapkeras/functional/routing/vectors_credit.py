"""Heinsen's routing of vectors (2022)."""
import math
import torch
from torch.nn import functional as F

def heinsen_2022(x, p, *, iterations=2, normalize=True, mask=None, variable=False):
    """x (B, I, D)."""
    I, D = x.shape[1:]
    J, E = p['B_F2'].shape
    xs = x / math.sqrt(I)
    f = ((xs * p['W_A']).sum(-1) + p['B_A']).sigmoid().unsqueeze(-1)
    if variable:
        use = F.linear(x, p['compute_beta_use.weight'], p['compute_beta_use.bias'])
        ign = F.linear(x, p['compute_beta_ign.weight'], p['compute_beta_ign.bias'])
    else:
        use, ign = p['beta_use'], p['beta_ign']
    hidden = None if mask is None else mask.expand(len(x), -1, -1) if mask.dim() == 2 else mask
    if hidden is not None:
        f = torch.where(hidden, 0.0, f)
    norm = lambda y: y if E == 1 else F.layer_norm(y, (E,), eps=1e-5)
    for t in range(iterations):
        if t == 0:
            R = x.new_full((1, 1, J), 1 / J) if hidden is None else (~hidden).to(x.dtype) / (~hidden).sum(-1, keepdim=True).clamp_min(1)
        else:
            back = (norm(y) @ p['W_G1']) * p['W_G2'] + p['B_G2']
            S = F.logsigmoid((x @ back.mT) * p['W_S'] + p['B_S'])
            if hidden is not None:
                S = S.masked_fill(hidden, -math.inf)
            R = S.softmax(-1)
        U = f * R
        phi = use * U - ign * (f - U)
        y = ((phi.mT @ xs) * p['W_F1']) @ p['W_F2'] + phi.sum(1).unsqueeze(-1) * p['B_F2']
    return (norm(y) if normalize else y), phi
