#include "transfers.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <tuple>

namespace npu_simulator {
namespace {

thread_local int grouping_depth = 0;
thread_local std::vector<Transfer> queued;

bool Send(Transfer& transfer) {
  const size_t rank = transfer.group->rank();
  Mailbox& box = transfer.group->Box(rank, transfer.peer);
  if (box.full.load(std::memory_order_acquire)) return false;
  const size_t bytes = std::min(kMailBytes, transfer.bytes() - transfer.moved);
  std::memcpy(transfer.group->BoxData(rank, transfer.peer), transfer.data + transfer.moved, bytes);
  box.bytes = bytes;
  box.call = transfer.call;
  transfer.moved += bytes;
  box.full.store(1, std::memory_order_release);
  return true;
}

bool Receive(Transfer& transfer) {
  const size_t rank = transfer.group->rank();
  Mailbox& box = transfer.group->Box(transfer.peer, rank);
  if (!box.full.load(std::memory_order_acquire)) return false;
  if (box.call.count != transfer.call.count || box.call.dtype != transfer.call.dtype) {
    const std::string sent = box.call.ToString();
    transfer.group->Fail(transfer.call, "rank " + std::to_string(transfer.peer) + " calls " + sent);
  }
  std::memcpy(transfer.data + transfer.moved, transfer.group->BoxData(transfer.peer, rank), box.bytes);
  transfer.moved += box.bytes;
  box.full.store(0, std::memory_order_release);
  return true;
}

// Moves one piece of every transfer that is first in its mailbox; returns whether anything moved.
bool Step(std::vector<Transfer>& transfers) {
  std::set<std::tuple<Group*, Call::Kind, size_t>> busy;
  bool moved = false;
  for (Transfer& transfer : transfers) {
    if (transfer.done() || !busy.insert({transfer.group, transfer.call.kind, transfer.peer}).second) continue;
    if (!(transfer.call.kind == Call::kSend ? Send(transfer) : Receive(transfer))) continue;
    transfer.started = moved = true;
  }
  return moved;
}

void CheckPeers(const std::vector<Transfer>& transfers, const Patience& patience) {
  for (const Transfer& transfer : transfers) {
    if (!transfer.done()) transfer.group->CheckPresence({transfer.peer}, patience, transfer.call);
  }
}

}  // namespace

void Run(std::vector<Transfer> transfers) {
  const auto is_done = [](const Transfer& transfer) { return transfer.done(); };
  Patience patience;
  while (!std::all_of(transfers.begin(), transfers.end(), is_done)) {
    if (Step(transfers)) {
      patience.Restart();
    } else if (patience.Wait()) {
      try {
        CheckPeers(transfers, patience);
      } catch (const GroupError&) {
        if (!Step(transfers)) throw;  // else the peer sent its last and ended properly just before the check
      }
    }
  }
}

void RunOrQueue(std::vector<Transfer> transfers) {
  if (grouping_depth == 0) return Run(std::move(transfers));
  queued.insert(queued.end(), transfers.begin(), transfers.end());
}

void StartGrouping() { ++grouping_depth; }

void EndGrouping() {
  if (grouping_depth == 0) throw GroupError("group end without group start");
  if (--grouping_depth > 0) return;
  std::vector<Transfer> transfers;
  transfers.swap(queued);  // also after an error the next group starts empty
  Run(std::move(transfers));
}

}  // namespace npu_simulator
