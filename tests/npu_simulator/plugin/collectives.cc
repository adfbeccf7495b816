// Collectives copy through the group's slots, a slot's length at a time.
#include "collectives.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <exception>
#include <vector>

#include "arithmetic.h"
#include "group.h"
#include "transfers.h"

struct C_CCLComm_st {
  npu_simulator::Group group;
};

namespace npu_simulator {
namespace {

// Paddle turns a failure into an exception that says only which call failed, so the reason goes to standard error.
template <typename Body>
C_Status Guard(Body body) {
  try {
    body();
    return C_SUCCESS;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "npu simulator: %s\n", error.what());
    std::fflush(stderr);
    return C_FAILED;
  }
}

// Calls `round(first, length)` for pieces of at most `most` elements; once with length 0 if there are none, because the
// ranks meet even over an empty tensor.
template <typename Round>
void InRounds(size_t count, size_t most, Round round) {
  size_t first = 0;
  do {
    const size_t length = std::min(most, count - first);
    round(first, length);
    first += length;
  } while (first < count);
}

std::vector<const char*> Slots(const Group& group, size_t offset = 0) {
  std::vector<const char*> slots(group.size());
  for (size_t rank = 0; rank < slots.size(); ++rank) slots[rank] = group.Slot(rank) + offset;
  return slots;
}

Call MakeCall(Call::Kind kind, C_DataType dtype, size_t count, uint32_t op = 0, size_t root = 0) {
  return Call{kind, static_cast<uint32_t>(dtype), count, op, static_cast<uint32_t>(root)};
}

// All-reduce, and reduce if only `root` wants the result.
void ReduceTo(const char* send, char* receive, const Call& call, bool wanted, Group& group) {
  const auto dtype = C_DataType(call.dtype);
  const size_t bytes = BytesOf(dtype);
  InRounds(call.count, kSlotBytes / bytes, [&](size_t first, size_t length) {
    std::memcpy(group.OwnSlot(), send + first * bytes, length * bytes);
    group.Exchange(call);
    if (wanted) Reduce(Slots(group), dtype, C_CCLReduceOp(call.op), length, receive + first * bytes);
  });
}

C_Status AllReduce(
    void* send, void* receive, size_t count, C_DataType dtype, C_CCLReduceOp op, C_CCLComm comm, C_Stream) {
  return Guard([&] {
    const Call call = MakeCall(Call::kAllReduce, dtype, count, op);
    ReduceTo(static_cast<char*>(send), static_cast<char*>(receive), call, true, comm->group);
  });
}

C_Status ReduceToRoot(void* send,
                      void* receive,
                      size_t count,
                      C_DataType dtype,
                      C_CCLReduceOp op,
                      size_t root,
                      C_CCLComm comm,
                      C_Stream) {
  return Guard([&] {
    const Call call = MakeCall(Call::kReduce, dtype, count, op, root);
    ReduceTo(static_cast<char*>(send), static_cast<char*>(receive), call, comm->group.rank() == root, comm->group);
  });
}

C_Status Broadcast(void* buffer, size_t count, C_DataType dtype, size_t root, C_CCLComm comm, C_Stream) {
  return Guard([&] {
    Group& group = comm->group;
    const size_t bytes = BytesOf(dtype);
    const Call call = MakeCall(Call::kBroadcast, dtype, count, 0, root);
    InRounds(count, kSlotBytes / bytes, [&](size_t first, size_t length) {
      char* piece = static_cast<char*>(buffer) + first * bytes;
      if (group.rank() == root) std::memcpy(group.OwnSlot(), piece, length * bytes);
      group.Exchange(call);
      if (group.rank() != root) std::memcpy(piece, group.Slot(root), length * bytes);
    });
  });
}

// `count` is one rank's share, here and in ReduceScatter.
C_Status AllGather(void* send, void* receive, size_t count, C_DataType dtype, C_CCLComm comm, C_Stream) {
  return Guard([&] {
    Group& group = comm->group;
    const size_t bytes = BytesOf(dtype);
    InRounds(count, kSlotBytes / bytes, [&](size_t first, size_t length) {
      std::memcpy(group.OwnSlot(), static_cast<char*>(send) + first * bytes, length * bytes);
      group.Exchange(MakeCall(Call::kAllGather, dtype, count));
      for (size_t rank = 0; rank < group.size(); ++rank) {
        std::memcpy(static_cast<char*>(receive) + (rank * count + first) * bytes, group.Slot(rank), length * bytes);
      }
    });
  });
}

C_Status ReduceScatter(
    void* send, void* receive, size_t count, C_DataType dtype, C_CCLReduceOp op, C_CCLComm comm, C_Stream) {
  return Guard([&] {
    Group& group = comm->group;
    const size_t bytes = BytesOf(dtype);
    const Call call = MakeCall(Call::kReduceScatter, dtype, count, op);
    InRounds(count, kSlotBytes / bytes / group.size(), [&](size_t first, size_t length) {
      for (size_t rank = 0; rank < group.size(); ++rank) {
        const char* share = static_cast<char*>(send) + (rank * count + first) * bytes;
        std::memcpy(group.OwnSlot() + rank * length * bytes, share, length * bytes);
      }
      group.Exchange(call);
      char* piece = static_cast<char*>(receive) + first * bytes;
      Reduce(Slots(group, group.rank() * length * bytes), dtype, op, length, piece);
    });
  });
}

C_Status Send(void* buffer, size_t count, C_DataType dtype, size_t peer, C_CCLComm comm, C_Stream) {
  return Guard([&] {
    RunOrQueue({{&comm->group, MakeCall(Call::kSend, dtype, count), peer, static_cast<char*>(buffer)}});
  });
}

C_Status Receive(void* buffer, size_t count, C_DataType dtype, size_t peer, C_CCLComm comm, C_Stream) {
  return Guard([&] {
    RunOrQueue({{&comm->group, MakeCall(Call::kReceive, dtype, count), peer, static_cast<char*>(buffer)}});
  });
}

C_Status AllToAll(const void** send,
                  const size_t* send_count,
                  const C_DataType* send_dtype,
                  void** receive,
                  const size_t* receive_count,
                  const C_DataType* receive_dtype,
                  size_t,
                  size_t ranks,
                  C_CCLComm comm,
                  C_Stream) {
  return Guard([&] {
    std::vector<Transfer> transfers;
    for (size_t peer = 0; peer < ranks; ++peer) {
      // A send only reads its buffer; the one field serves both directions.
      char* data = const_cast<char*>(static_cast<const char*>(send[peer]));
      transfers.push_back({&comm->group, MakeCall(Call::kSend, send_dtype[peer], send_count[peer]), peer, data});
      transfers.push_back({&comm->group,
                           MakeCall(Call::kReceive, receive_dtype[peer], receive_count[peer]),
                           peer,
                           static_cast<char*>(receive[peer])});
    }
    RunOrQueue(std::move(transfers));
  });
}

C_Status GroupStart() { return Guard(StartGrouping); }
C_Status GroupEnd() { return Guard(EndGrouping); }

C_Status IdSize(size_t* size) {
  *size = kIdBytes;
  return C_SUCCESS;
}

C_Status MakeId(C_CCLRootId* id) {
  return Guard([&] { Group::MakeId(static_cast<char*>(id->data), id->sz); });
}

C_Status CreateGroup(size_t ranks, C_CCLRootId* id, size_t rank, C_CCLComm* comm) {
  return Guard([&] { *comm = new C_CCLComm_st{{static_cast<const char*>(id->data), ranks, rank}}; });
}

C_Status DestroyGroup(C_CCLComm comm) {
  delete comm;
  return C_SUCCESS;
}

C_Status GroupName(C_CCLComm comm, char* name) {
  std::snprintf(name, kIdBytes, "%s", comm->group.name().c_str());
  return C_SUCCESS;
}

C_Status ScaleAndAdd(
    const C_Device, C_Stream, C_DataType dtype, size_t count, float alpha, void* x, float beta, void* y) {
  return Guard([&] { Axpby(dtype, count, alpha, x, beta, y); });
}

}  // namespace

void FillCollectives(C_DeviceInterface* table) {
  table->xccl_get_comm_name = GroupName;
  table->xccl_get_unique_id_size = IdSize;
  table->xccl_get_unique_id = MakeId;
  table->xccl_comm_init_rank = CreateGroup;
  table->xccl_destroy_comm = DestroyGroup;
  table->xccl_all_reduce = AllReduce;
  table->xccl_broadcast = Broadcast;
  table->xccl_reduce = ReduceToRoot;
  table->xccl_all_gather = AllGather;
  table->xccl_reduce_scatter = ReduceScatter;
  table->xccl_group_start = GroupStart;
  table->xccl_group_end = GroupEnd;
  table->xccl_send = Send;
  table->xccl_recv = Receive;
  table->xccl_all_to_all = AllToAll;
  table->blas_axpby = ScaleAndAdd;  // not a collective, but it needs the same guard
}

}  // namespace npu_simulator
