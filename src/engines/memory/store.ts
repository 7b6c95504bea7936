import {
  checkOpen,
  type MemoryDatabase,
  type MemoryRow,
  type MemoryTransaction,
} from '../../adapters/memory-database.ts'
import { LockError } from '../../base/errors.ts'
import * as lockRow from '../../protocol/lock-row.ts'
import type {
  EnqueueResult,
  ExclusiveAttempt,
  Grant,
  Hold,
  NewTicket,
  Store,
  Withdrawal,
  WithdrawalResult,
} from '../../protocol/store.ts'
import { ofEachName } from '../kinds.ts'
import { isCheckpointed, marks, purgeMarks } from './marks.ts'
import { purgeWaits, waits } from './waits.ts'

/** Taken now, since fake timers of tests may replace it later. */
const { queueMicrotask } = globalThis

/** The decisions of lock-row.ts with a map around them. Every verb runs to its end without yielding, which makes it atomic. */
export function memoryStore(database: MemoryDatabase): Store<MemoryTransaction> {
  const { rows, listeners } = database

  /** As `tx` sees it, which is not in its own way. */
  function world(of: MemoryRow, tx?: MemoryTransaction): lockRow.World {
    const now = database.now()
    const isOthers = (other: MemoryTransaction) => other !== tx
    return {
      now,
      clock: BigInt(Math.floor(now * 1000)),
      locked: [...of.lockedBy].some(isOthers),
      protects: (slot) => [...(of.slotsLockedBy.get(slot) ?? [])].some(isOthers),
      hasSession: (process) => listeners.has(process),
      sessionEnded: () => false,
    }
  }

  function newRow(name: string, permits: number | null): MemoryRow {
    return { row: lockRow.newRow(name, permits), lockedBy: new Set(), slotsLockedBy: new Map() }
  }

  function rowOf(name: string, permits: number | null): MemoryRow {
    const found = rows.get(name) ?? newRow(name, permits)
    rows.set(name, found)
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
    for (const grant of grants) {
      if (grant.process !== by) notify({ ...grant, checkpointed: isCheckpointed(database, name) })
    }
    return reply
  }

  function notify(grant: Grant): void {
    queueMicrotask(() => listeners.get(grant.process)?.(grant))
  }

  /** The row, as an exclusive hold is kept there; or the slot of a shared one. */
  function lockUntilEnd(found: MemoryRow, { slot }: Pick<Hold, 'slot'>, tx: MemoryTransaction): void {
    const lockedBy = slot === undefined ? found.lockedBy : (found.slotsLockedBy.get(slot) ?? new Set())
    if (slot !== undefined) found.slotsLockedBy.set(slot, lockedBy)
    lockedBy.add(tx)
    tx.onEnd.push(() => lockedBy.delete(tx))
  }

  /** Whether it stands, which it then does until the end of `tx`. */
  function guard(tx: MemoryTransaction, hold: Hold): 'stands' | 'lost' {
    const found = rows.get(hold.name)
    if (found === undefined || lockRow.guard(found.row, hold, world(found, tx)) !== 'stands') return 'lost'
    lockUntilEnd(found, hold, tx)
    return 'stands'
  }

  /** The row may be another one when `tx` commits: others come and go beside a shared hold, and queue beside any. */
  function releaseOnCommit(found: MemoryRow, hold: Hold, tx: MemoryTransaction): void {
    tx.onCommit.push(() => {
      found.row = lockRow.releaseIn(found.row, hold, world(found, tx)).row
    })
  }

  function acquireIn(tx: MemoryTransaction, attempt: ExclusiveAttempt) {
    const found = rowOf(attempt.name, null)
    const same = tx.holds.get(attempt.name)
    const before = found.row
    const { row, reply } = lockRow.acquireIn(before, attempt, same, world(found, tx))
    if (reply.granted && row !== before) {
      const { owner, token } = reply
      tx.holds.set(attempt.name, { owner, token })
      lockUntilEnd(found, {}, tx)
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
        const found = rows.get(attempt.name) ?? newRow(attempt.name, attempt.permits)
        const { row, reply } = lockRow.acquire(found.row, attempt, world(found))
        found.row = row
        if (!reply.granted) return reply
        rows.set(attempt.name, found)
        return { ...reply, checkpointed: isCheckpointed(database, attempt.name) }
      })
    },

    async acquireIn(tx, attempt, waitMs) {
      checkOpen(tx)
      const reply = acquireIn(tx, attempt)
      const others = [...rowOf(attempt.name, null).lockedBy].filter((other) => other !== tx)
      if (reply.granted || reply.holders.length > 0 || reply.queued || others.length === 0) return reply
      await endOfOne(others, waitMs)
      checkOpen(tx)
      return acquireIn(tx, attempt)
    },

    enqueue: (tickets, maxWaiters) =>
      ofEachName<NewTicket, EnqueueResult>(tickets, async (groups) =>
        groups.map((group) =>
          step<readonly EnqueueResult[]>(
            group[0].name,
            group.map(() => ({ outcome: 'missing' })),
            (row, world) => lockRow.enqueue(row, group, maxWaiters, world),
          ),
        ),
      ),

    withdraw: (withdrawals) =>
      ofEachName<Withdrawal, WithdrawalResult>(withdrawals, async (groups) =>
        groups.map((group) =>
          step<readonly WithdrawalResult[]>(
            group[0].name,
            group.map(() => ({ withdrawn: true, grants: [] })),
            (row, world) => lockRow.withdraw(row, group, world),
          ),
        ),
      ),

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
      const { reply } = lockRow.releaseIn(found.row, hold, world(found, tx))
      if (reply === 'lost') return reply
      lockUntilEnd(found, hold, tx)
      releaseOnCommit(found, hold, tx)
      return reply
    },

    adoptIn(tx, hold) {
      checkOpen(tx)
      const result = guard(tx, hold)
      if (result === 'stands') releaseOnCommit(rowOf(hold.name, null), hold, tx)
      return result
    },

    async downgrade(hold, process) {
      return step(hold.name, { outcome: 'lost' }, (row, world) => lockRow.downgrade(row, hold, world), process)
    },

    async openSemaphore(name, permits) {
      const found = rows.get(name) ?? newRow(name, permits)
      if (!rows.has(name)) found.row = lockRow.newSemaphore(name, permits, world(found))
      rows.set(name, found)
      return lockRow.kindOf(found.row)
    },

    async resize(name, permits, process) {
      rowOf(name, permits)
      return step(
        name,
        { outcome: 'resized', grants: [] },
        (row, world) => lockRow.resize(row, permits, world),
        process,
      )
    },

    async available(name) {
      const found = rows.get(name)
      return found === undefined ? null : lockRow.available(found.row, world(found))
    },

    async renew(holds) {
      return holds.map((hold) =>
        step(hold.name, { outcome: 'lost', remainingMs: 0 }, (row, world) => lockRow.renew(row, hold, world)),
      )
    },

    guard(tx, holds) {
      checkOpen(tx)
      return holds.map((hold) => guard(tx, hold))
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

    async forceRelease(name, token) {
      return step(name, 'free', (row, world) => lockRow.forceRelease(row, token, world))
    },

    ...waits(database),
    ...marks(database, world),

    async purge(idleMs) {
      purgeWaits(database)
      const idle = [...rows].filter(([, found]) => lockRow.isPurgeable(found.row, idleMs, world(found)))
      for (const [name] of idle) rows.delete(name)
      purgeMarks(database, idleMs)
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
