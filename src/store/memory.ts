import { brandClass } from '../brand.ts'
import { LockError } from '../errors.ts'
import {
  type Arrival,
  type Attempt,
  type AttemptInResult,
  type AttemptResult,
  CLAIM_MS,
  type Grant,
  type GuardResult,
  type Hold,
  type LockState,
  type Renewal,
  type Settlement,
  type Sight,
  type Store,
} from './store.ts'

/** Taken now, since fake timers of tests may replace them later. Of the time, they are to move what passes alone. */
const { queueMicrotask } = globalThis
const { timeOrigin } = performance

interface Entry extends Omit<Arrival, 'name' | 'joins'> {
  count: number
  /** Dead from then on. */
  until: number
}

interface Row {
  readonly name: string
  owner: string | null
  token: bigint
  expiresAt: number
  holder: string
  queue: Entry[]
  /** The process that was handed the lock and has not renewed the lease yet. */
  handedTo: string | null
  /** The present holder took it from one that had not released it. */
  takeover: boolean
  /** Transactions that have guarded a hold of this lock and not yet ended. */
  readonly guards: Set<MemoryTransaction>
}

/** An open transaction of a {@link MemoryDatabase}. */
export class MemoryTransaction {
  static {
    brandClass(MemoryTransaction, 'MemoryTransaction')
  }

  /** @internal What ends with the transaction. */
  readonly onEnd: (() => void)[] = []
  /** @internal What becomes true with the commit, in order. */
  readonly onCommit: (() => void)[] = []
  /** @internal What it holds, by the names of the locks. */
  readonly holds = new Map<string, { readonly owner: string; readonly token: bigint }>()
  /** False from its end on. */
  open = true
}

/**
 * Locks in this process's memory, for unit tests: pass one to as many `fromMemory` as there would be processes. Its clock
 * is `performance.now()`, so fake timers move it.
 */
export class MemoryDatabase {
  /** @internal */
  readonly rows = new Map<string, Row>()
  /** @internal Processes that are told of what is handed over to them. */
  readonly listeners = new Map<string, (grant: Grant) => void>()

  /** Gives guards and `within` something to hold on to. Only what locks do in it is undone if `body` rejects. */
  async transaction<T>(body: (tx: MemoryTransaction) => Promise<T>): Promise<T> {
    const tx = new MemoryTransaction()
    try {
      const result = await body(tx)
      for (const apply of tx.onCommit) apply()
      return result
    } finally {
      tx.open = false
      for (const end of tx.onEnd) end()
    }
  }
}

/** Every verb runs to its end without yielding, which is what makes it atomic. */
export function memoryStore(database: MemoryDatabase): Store<MemoryTransaction> {
  const { rows, listeners } = database
  const now = () => timeOrigin + performance.now()
  const nextToken = (previous: bigint) => {
    const clock = BigInt(Math.floor(now() * 1000))
    return previous + 1n > clock ? previous + 1n : clock
  }
  const isHeld = (row: Row | undefined) => row !== undefined && row.owner !== null && row.expiresAt > now()
  const isAlive = (entry: Entry) => entry.until > now() && (!entry.provenAlive || listeners.has(entry.process))
  const ours = (hold: Hold) => {
    const row = rows.get(hold.name)
    return row?.owner === hold.owner && row.token === hold.token ? row : undefined
  }
  const waiters = (row: Row) => row.queue.reduce((sum, { count }) => sum + count, 0)
  const toHold = (row: Row): Hold => ({ name: row.name, owner: row.owner as string, token: row.token })
  const toState = (row: Row): LockState => ({
    ...toHold(row),
    holder: row.holder,
    expiresInMs: row.expiresAt - now(),
    waiters: waiters(row),
  })
  const toSight = (row: Row): Sight => ({
    name: row.name,
    holder: isHeld(row)
      ? { ...toHold(row), label: row.holder, remainingMs: row.expiresAt - now(), takeover: row.takeover }
      : null,
    bySession: false,
    ready: !isHeld(row) && row.queue.length > 0,
    leasesWait: row.queue.some(({ transaction }) => !transaction),
    entries: row.queue.map(({ entry }) => entry),
  })

  const lockUntilEnd = (row: Row, tx: MemoryTransaction) => {
    row.guards.add(tx)
    tx.onEnd.push(() => row.guards.delete(tx))
  }

  function acquire({ name, owner, ttlMs, holder }: Attempt, tx: MemoryTransaction | undefined): AttemptResult {
    let row = rows.get(name)
    if (row === undefined) {
      row = {
        name,
        owner: null,
        token: 0n,
        expiresAt: 0,
        holder,
        queue: [],
        handedTo: null,
        takeover: false,
        guards: new Set(),
      }
      rows.set(name, row)
    }
    const again = row.owner === owner
    const lockedByOthers = [...row.guards].some((other) => other !== tx)
    // WHO HOLDS THE LOCK is decided here, and in `handOver`.
    if (!again && (isHeld(row) || lockedByOthers || row.queue.length > 0)) {
      return isHeld(row)
        ? { granted: false, holder: row.holder, queued: false }
        : { granted: false, holder: null, queued: row.queue.length > 0 }
    }
    const takeover = again ? row.takeover : row.owner !== null
    const token = again ? row.token : nextToken(row.token)
    const taken = {
      owner: ttlMs === null ? null : owner,
      token,
      expiresAt: now() + (ttlMs ?? 0),
      holder,
      handedTo: null,
      takeover,
    }
    if (tx === undefined) {
      Object.assign(row, taken)
    } else {
      const locked = row
      lockUntilEnd(locked, tx)
      tx.onCommit.push(() => Object.assign(locked, taken))
    }
    return { granted: true, token, takeover }
  }

  function takeIn(tx: MemoryTransaction, attempt: Attempt): AttemptInResult {
    const same = tx.holds.get(attempt.name)
    if (same !== undefined) return { granted: true, ...same }
    const result = acquire(attempt, tx)
    if (!result.granted) return result
    const hold = { owner: attempt.owner, token: result.token }
    tx.holds.set(attempt.name, hold)
    return { granted: true, ...hold }
  }

  /** To the first waiter that is alive; those before it leave the queue. Null: there is none. */
  function handOver(row: Row, takeover: boolean, by: string): Grant | null {
    const first = row.queue.findIndex(isAlive)
    const heir = row.queue[first]
    if (heir === undefined) {
      row.queue = []
      return null
    }
    row.queue = row.queue.slice(heir.count === 1 ? first + 1 : first)
    heir.count--
    const { process, holder, entry } = heir
    const token = nextToken(row.token)
    const owner = entry + token.toString(16).padStart(16, '0')
    const remainingMs = Math.min(heir.ttlMs, CLAIM_MS)
    Object.assign(row, { owner, token, expiresAt: now() + remainingMs, holder, handedTo: process, takeover })
    const grant = { name: row.name, owner, token, process, remainingMs, takeover }
    if (process !== by) queueMicrotask(() => listeners.get(process)?.(grant))
    return grant
  }

  function settle(name: string, process: string): Settlement {
    const row = rows.get(name)
    if (row === undefined) return { outcome: 'idle', grant: null }
    if (isHeld(row)) return { outcome: 'held', grant: null }
    if (row.queue.length === 0) return { outcome: 'idle', grant: null }
    if (row.guards.size > 0) return { outcome: 'locked', grant: null }
    // A hand-off that ran out unclaimed: its process is gone or stands still, so none of its callers is next.
    row.queue = row.queue.filter((entry) => entry.process !== row.handedTo)
    const grant = handOver(row, row.owner !== null, process)
    return { outcome: grant === null ? 'idle' : 'handed over', grant }
  }

  function free(row: Row): void {
    Object.assign(row, { owner: null, expiresAt: Math.min(row.expiresAt, now()), handedTo: null })
  }

  return {
    synchronous: true,
    single: false,

    async acquire(attempts) {
      return attempts.map((attempt) => acquire(attempt, undefined))
    },

    async acquireIn(tx, attempt, waitMs) {
      checkOpen(tx)
      const result = takeIn(tx, attempt)
      const others = [...(rows.get(attempt.name)?.guards ?? [])].filter((other) => other !== tx)
      if (result.granted || result.holder !== null || result.queued || others.length === 0) return result
      await endOfOne(others, waitMs)
      checkOpen(tx)
      return takeIn(tx, attempt)
    },

    async enqueue(arrivals, maxWaiters) {
      return arrivals.map(({ name, joins, ...arrival }) => {
        const row = rows.get(name)
        if (row === undefined) return { outcome: 'missing' }
        if (waiters(row) + arrival.count > maxWaiters) return { outcome: 'full' }
        const until = now() + arrival.waitMs
        const last = row.queue.at(-1)
        if (last !== undefined && last.entry === joins) {
          last.count += arrival.count
          last.until = Math.max(last.until, until)
        } else {
          row.queue.push({ ...arrival, until })
        }
        return { outcome: 'queued', entry: row.queue.at(-1)!.entry, sight: toSight(row) }
      })
    },

    async leave(departures) {
      return departures.map(({ name, entry, count }) => {
        const row = rows.get(name)
        if (row === undefined) return { left: true, grant: null }
        const waiting = row.queue.find((each) => each.entry === entry)
        if (waiting !== undefined) waiting.count -= count
        row.queue = row.queue.filter((each) => each.count > 0)
        if (row.handedTo === null || !isHeld(row) || !row.owner?.startsWith(entry)) return { left: true, grant: null }
        const { handedTo: process, takeover } = row
        return { left: true, grant: { ...toHold(row), process, remainingMs: row.expiresAt - now(), takeover } }
      })
    },

    async look(names) {
      return names.flatMap((name) => rows.get(name) ?? []).map(toSight)
    },

    async settle(names, process) {
      return names.map((name) => settle(name, process))
    },

    async release(holds, process) {
      return holds.map((hold) => {
        const row = ours(hold)
        if (row === undefined) return { outcome: 'lost', handedOver: false, grant: null, unsettled: false }
        free(row)
        const unsettled = row.guards.size > 0 && row.queue.length > 0
        const grant = unsettled ? null : handOver(row, false, process)
        return { outcome: 'released', handedOver: grant !== null, grant, unsettled }
      })
    },

    async releaseIn(tx, hold) {
      checkOpen(tx)
      const row = ours(hold)
      if (row === undefined) return 'lost'
      lockUntilEnd(row, tx)
      tx.onCommit.push(() => free(row))
      return { awaited: row.queue.length > 0 }
    },

    async renew(holds): Promise<Renewal[]> {
      return holds.map((hold) => {
        const row = ours(hold)
        if (row === undefined || !isHeld(row)) return { outcome: 'lost', remainingMs: 0 }
        row.expiresAt = Math.max(row.expiresAt, now() + hold.ttlMs)
        row.handedTo = null
        return { outcome: 'renewed', remainingMs: row.expiresAt - now() }
      })
    },

    guard(tx, holds): GuardResult[] {
      checkOpen(tx)
      return holds.map((hold) => {
        const row = ours(hold)
        if (row === undefined || !isHeld(row)) return 'lost'
        lockUntilEnd(row, tx)
        return 'stands'
      })
    },

    async query() {
      throw new LockError('UNSUPPORTED', 'the in-memory engine runs no queries: call guard(tx)')
    },

    async inspect(name) {
      const row = rows.get(name)
      return row !== undefined && isHeld(row) ? toState(row) : null
    },

    async list(prefix) {
      return [...rows.values()]
        .filter((row) => row.name.startsWith(prefix) && isHeld(row))
        .map(toState)
        .sort((a, b) => Buffer.compare(Buffer.from(a.name), Buffer.from(b.name)))
    },

    async forceRelease(name) {
      const row = rows.get(name)
      if (row === undefined || !isHeld(row)) return 'free'
      if (row.guards.size > 0) return 'locked'
      row.token = nextToken(row.token)
      free(row)
      return 'released'
    },

    async purge(idleMs) {
      const clock = BigInt(Math.floor(now() * 1000))
      let purged = 0
      for (const [name, row] of rows) {
        const idle = row.expiresAt <= now() - idleMs && row.guards.size === 0 && !row.queue.some(isAlive)
        if (!idle || row.token >= clock) continue
        rows.delete(name)
        purged++
      }
      return purged
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

function checkOpen(tx: MemoryTransaction): void {
  if (tx instanceof MemoryTransaction && tx.open) return
  throw new LockError('INVALID_ARGUMENT', 'this needs an open transaction of the MemoryDatabase: see its transaction()')
}
