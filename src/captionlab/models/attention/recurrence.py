"""The attention recurrence as one differentiable operation, with its gradient written out. Knows tensors only.

Left to autograd, each step of the loop would fill gradients the size of the whole batch and compute weight gradients
from a few rows. Here the weight gradients of all steps are one product each, the rectified energies are computed again
instead of stored, and captions may leave the batch when they end.

Shape letters as in ``base``: B captions, R regions, M memory, A attention, H hidden, G = 4 H gates (input, forget,
cell, output), X = M + H; n captions of one step; N words of all steps, step by step.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class AttentionRecurrence(torch.autograd.Function):
    """Run the LSTM cell and its attention over whole captions.

    ``gates_NG`` are the words' part of the gates. ``alive`` says how many captions each step has, the first rows of B:
    never more than the step before. Returns hidden_NH and attention_NR.
    """

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)  # type: ignore[untyped-decorator]
    def forward(
        ctx: Any, gates_NG: Tensor, h_BH: Tensor, c_BH: Tensor, memory_BRM: Tensor, keys_BRA: Tensor,
        query_AH: Tensor, query_A: Tensor, energy_A: Tensor, gate_MH: Tensor, gate_M: Tensor, weight_GX: Tensor,
        alive: Sequence[int],
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Autograd needs all tensors as parameters: ``backward`` returns a gradient for each, in their order."""
        kept: tuple[list[Any], ...] = tuple([] for _ in range(10))
        past_h, past_c, activated, tanh_c, seen, gates, contexts, queries, attentions, hs = kept
        room_BRA = torch.empty_like(keys_BRA)
        h_nH, c_nH = h_BH, c_BH
        for n, words_nG in zip(alive, gates_NG.split(list(alive)), strict=True):
            h_nH, c_nH = h_nH[:n], c_nH[:n]
            past = (h_nH, c_nH)
            query_nA = torch.addmm(query_A, h_nH, query_AH.T)
            z_nRA = torch.add(keys_BRA[:n], query_nA.unsqueeze(1), out=room_BRA[:n]).relu_()
            attention_nR = (z_nRA @ energy_A).softmax(-1)
            context_nM = torch.bmm(attention_nR.unsqueeze(1), memory_BRM[:n]).squeeze(1)
            gate_nM = torch.addmm(gate_M, h_nH, gate_MH.T).sigmoid_()
            seen_nX = torch.cat([gate_nM * context_nM, h_nH], -1)
            i, f, g, o = torch.addmm(words_nG, seen_nX, weight_GX.T).chunk(4, -1)
            acts = (i.sigmoid_(), f.sigmoid_(), g.tanh_(), o.sigmoid_())
            c_nH = torch.addcmul(acts[1] * c_nH, acts[0], acts[2])
            tanh_nH = c_nH.tanh()
            h_nH = acts[3] * tanh_nH
            now = (*past, acts, tanh_nH, seen_nX, gate_nM, context_nM, query_nA, attention_nR, h_nH)
            for values, value in zip(kept, now, strict=True):
                values.append(value)
        hidden_NH, attention_NR = torch.cat(hs), torch.cat(attentions)
        ctx.save_for_backward(memory_BRM, keys_BRA, query_AH, energy_A, gate_MH, weight_GX, attention_NR)
        ctx.steps = (alive, past_h, past_c, activated, tanh_c, seen, gates, contexts, queries)
        return hidden_NH, attention_NR

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]
    def backward(ctx: Any, d_hidden_NH: Tensor, d_attention_NR: Tensor) -> tuple[Tensor | None, ...]:
        memory_BRM, keys_BRA, query_AH, energy_A, gate_MH, weight_GX, attention_NR = ctx.saved_tensors
        alive, past_h, past_c, activated, tanh_c, seen, gates, contexts, queries = ctx.steps
        m = memory_BRM.shape[2]
        d_hs = d_hidden_NH.split(list(alive))
        attentions, d_attentions = attention_NR.split(list(alive)), d_attention_NR.split(list(alive))
        d_keys_BRA = torch.zeros_like(keys_BRA)  # without energy_A, which multiplies it at the end
        d_energy_A = torch.zeros_like(energy_A)
        room_BRA = torch.empty_like(keys_BRA)
        batch, steps = len(keys_BRA), len(alive)
        attention_BTR = memory_BRM.new_zeros(batch, steps, memory_BRM.shape[1])
        d_context_BTM = memory_BRM.new_zeros(batch, steps, m)
        d_h_BH, d_c_BH = torch.zeros_like(past_h[0]), torch.zeros_like(past_c[0])
        d_gates, d_queries, d_looks = [], [], []
        for t in reversed(range(steps)):
            n = alive[t]
            i, f, g, o = activated[t]
            d_h_nH = d_h_BH[:n] + d_hs[t]
            d_c_nH = torch.addcmul(d_c_BH[:n], d_h_nH * o, 1 - tanh_c[t].square())
            d_gates_nG = torch.cat([
                d_c_nH * g * i * (1 - i),
                d_c_nH * past_c[t] * f * (1 - f),
                d_c_nH * i * (1 - g.square()),
                d_h_nH * tanh_c[t] * o * (1 - o),
            ], -1)  # fmt: skip
            d_seen_nM, d_past_nH = (d_gates_nG @ weight_GX).split([m, weight_GX.shape[1] - m], -1)
            d_context_nM = d_seen_nM * gates[t]
            d_look_nM = d_seen_nM * contexts[t] * gates[t] * (1 - gates[t])
            attention_nR = attentions[t]
            d_attention_nR = torch.bmm(memory_BRM[:n], d_context_nM.unsqueeze(2)).squeeze(2) + d_attentions[t]
            d_energy_nR = attention_nR * (d_attention_nR - (attention_nR * d_attention_nR).sum(-1, keepdim=True))
            z_nRA = torch.add(keys_BRA[:n], queries[t].unsqueeze(1), out=room_BRA[:n]).relu_()
            d_energy_A += z_nRA.flatten(0, 1).T @ d_energy_nR.flatten()
            open_nRA = z_nRA.sign_()  # 1 where the ReLU let the energy through
            d_query_nA = torch.bmm(d_energy_nR.unsqueeze(1), open_nRA).squeeze(1) * energy_A
            d_keys_BRA[:n].addcmul_(open_nRA, d_energy_nR.unsqueeze(2))
            attention_BTR[:n, t] = attention_nR
            d_context_BTM[:n, t] = d_context_nM
            d_h_BH[:n] = d_past_nH + d_query_nA @ query_AH + d_look_nM @ gate_MH
            d_c_BH[:n] = d_c_nH * f
            d_gates.append(d_gates_nG)
            d_queries.append(d_query_nA)
            d_looks.append(d_look_nM)
        d_gates_NG, d_query_NA, d_look_NM = (torch.cat(parts[::-1]) for parts in (d_gates, d_queries, d_looks))
        past_NH = torch.cat(past_h)
        return (
            d_gates_NG,
            d_h_BH,
            d_c_BH,
            torch.bmm(attention_BTR.transpose(1, 2), d_context_BTM),
            d_keys_BRA.mul_(energy_A),
            d_query_NA.T @ past_NH,
            d_query_NA.sum(0),
            d_energy_A,
            d_look_NM.T @ past_NH,
            d_look_NM.sum(0),
            d_gates_NG.T @ torch.cat(seen),
            None,
        )
