import {
  checkOpen,
  type MemoryDatabase,
  type MemoryRow,
  type MemoryTransaction,
} from '../../adapters/memory-database.ts'
import { LockError } from '../../base/errors.ts'
import * as lockRow from '../../protocol/lock-row.ts'
import type { Attempt, Grant, Store } from '../../protocol/store.ts'

/** Taken now, since fake timers of tests may replace them later. Of the time, they are to move what passes alone. */
const { queueMicrotask } = globalThis
const { timeOrigin } = performance

/** The decisions of lock-row.ts with a map around them. Every verb runs to its end without yielding, which makes it atomic. */
export function memoryStore(database: MemoryDatabase): Store<MemoryTransaction> {
  const { rows, listeners } = database

  /** As `tx` sees it, which is not in its own way. */
  function world(of: MemoryRow, tx?: MemoryTransaction): lockRow.World {
    const now = timeOrigin + performance.now()
    return {
      now,
      clock: BigInt(Math.floor(now * 1000)),
      locked: [...of.lockedBy].some((other) => other !== tx),
      hasSession: (process) => listeners.has(process),
      sessionEnded: () => false,
    }
  }

  function rowOf(name: string): MemoryRow {
    let found = rows.get(name)
    if (found === undefined) {
      found = { row: lockRow.newRow(name), lockedBy: new Set() }
      rows.set(name, found)
    }
    return found
  }

  /** Makes a step of the lock's row, or answers `missing` if there is none. */
  function step<Reply>(
    name: string,
    missing: Reply,
    decide: (row: lockRow.LockRow, world: lockRow.World) => lockRow.Step<Reply>,
    by?: string,
  ): Reply {
    const found = rows.get(name)
    if (found === undefined) return missing
    const { row, reply, grants } = decide(found.row, world(found))
    found.row = row
    for (const grant of grants) if (grant.process !== by) notify(grant)
    return reply
  }

  function notify(grant: Grant): void {
    queueMicrotask(() => listeners.get(grant.process)?.(grant))
  }

  function lockUntilEnd(found: MemoryRow, tx: MemoryTransaction): void {
    found.lockedBy.add(tx)
    tx.onEnd.push(() => found.lockedBy.delete(tx))
  }

  function acquireIn(tx: MemoryTransaction, attempt: Attempt) {
    const found = rowOf(attempt.name)
    const same = tx.holds.get(attempt.name)
    const before = found.row
    const { row, reply } = lockRow.acquireIn(before, attempt, same, world(found, tx))
    if (reply.granted && row !== before) {
      const { owner, token } = reply
      tx.holds.set(attempt.name, { owner, token })
      lockUntilEnd(found, tx)
      // Others queue meanwhile.
      tx.onCommit.push(() => {
        found.row = { ...row, queue: found.row.queue }
      })
    }
    return reply
  }

  return {
    synchronous: true,
    single: false,

    async acquire(attempts) {
      return attempts.map((attempt) => {
        const found = rowOf(attempt.name)
        const { row, reply } = lockRow.acquire(found.row, attempt, world(found))
        found.row = row
        return reply
      })
    },

    async acquireIn(tx, attempt, waitMs) {
      checkOpen(tx)
      const reply = acquireIn(tx, attempt)
      const others = [...rowOf(attempt.name).lockedBy].filter((other) => other !== tx)
      if (reply.granted || reply.holders.length > 0 || reply.queued || others.length === 0) return reply
      await endOfOne(others, waitMs)
      checkOpen(tx)
      return acquireIn(tx, attempt)
    },

    async enqueue(tickets, maxWaiters) {
      return tickets.map((ticket) =>
        step(ticket.name, { outcome: 'missing' }, (row, world) => lockRow.enqueue(row, ticket, maxWaiters, world)),
      )
    },

    async withdraw(withdrawals) {
      return withdrawals.map((withdrawal) =>
        step(withdrawal.name, { withdrawn: true, grants: [] }, (row, world) =>
          lockRow.withdraw(row, withdrawal, world),
        ),
      )
    },

    async poll(names) {
      return names.flatMap((name) => rows.get(name) ?? []).map((found) => lockRow.view(found.row, world(found)))
    },

    async promote(names, process) {
      return names.map((name) => step(name, { outcome: 'idle', grants: [] }, lockRow.promote, process))
    },

    async release(holds, process) {
      return holds.map((hold) =>
        step(
          hold.name,
          { outcome: 'lost', handedOver: false, grants: [], promoteLater: false },
          (row, world) => lockRow.release(row, hold, world),
          process,
        ),
      )
    },

    async releaseIn(tx, hold) {
      checkOpen(tx)
      const found = rows.get(hold.name)
      if (found === undefined) return 'lost'
      const { row, reply } = lockRow.releaseIn(found.row, hold, world(found, tx))
      if (reply === 'lost') return reply
      lockUntilEnd(found, tx)
      tx.onCommit.push(() => {
        found.row = { ...row, queue: found.row.queue }
      })
      return reply
    },

    async renew(holds) {
      return holds.map((hold) =>
        step(hold.name, { outcome: 'lost', remainingMs: 0 }, (row, world) => lockRow.renew(row, hold, world)),
      )
    },

    guard(tx, holds) {
      checkOpen(tx)
      return holds.map((hold) => {
        const found = rows.get(hold.name)
        const result = found === undefined ? 'lost' : lockRow.guard(found.row, hold, world(found, tx))
        if (found !== undefined && result === 'stands') lockUntilEnd(found, tx)
        return result
      })
    },

    async query() {
      throw new LockError('UNSUPPORTED', 'the in-memory engine runs no queries: call guard(tx)')
    },

    async inspect(name) {
      const found = rows.get(name)
      return found === undefined ? null : lockRow.state(found.row, world(found))
    },

    async list(prefix) {
      return [...rows.values()]
        .filter(({ row }) => row.name.startsWith(prefix))
        .flatMap((found) => lockRow.state(found.row, world(found)) ?? [])
        .sort((a, b) => Buffer.compare(Buffer.from(a.name), Buffer.from(b.name)))
    },

    async forceRelease(name) {
      return step(name, 'free', lockRow.forceRelease)
    },

    async purge(idleMs) {
      const idle = [...rows].filter(([, found]) => lockRow.isPurgeable(found.row, idleMs, world(found)))
      for (const [name] of idle) rows.delete(name)
      return idle.length
    },

    async openSession() {
      throw new LockError(
        'UNSUPPORTED',
        "takeover: 'session' needs sessions, which the in-memory engine has none of; use 'expiry'",
      )
    },

    async listen(process, onGrant) {
      listeners.set(process, onGrant)
      return {
        provesLife: true,
        close: async () => void listeners.delete(process),
      }
    },

    async migrate() {
      return []
    },
  }
}

/** As a database would wait for one of these transactions, for `waitMs` at most. */
async function endOfOne(transactions: readonly MemoryTransaction[], waitMs: number): Promise<void> {
  if (waitMs <= 0) return
  await new Promise<void>((resolve) => {
    const timer = setTimeout(resolve, waitMs)
    for (const transaction of transactions) {
      transaction.onEnd.push(() => {
        clearTimeout(timer)
        resolve()
      })
    }
  })
}
