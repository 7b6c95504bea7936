import { LockError } from '../errors.ts'
import type { Attempt, AttemptResult, GuardResult, Hold, LockState, Renewal, Store } from './store.ts'

interface Row {
  owner: string | null
  token: bigint
  expiresAt: number
  holder: string
  /** Transactions that have guarded a hold of this lock and not yet ended. */
  readonly guards: Set<MemoryTransaction>
}

/** An open transaction of a {@link MemoryDatabase}. */
export class MemoryTransaction {
  /** @internal What ends with the transaction. */
  readonly onEnd: (() => void)[] = []
  /** @internal What becomes true with the commit, in order. */
  readonly onCommit: (() => void)[] = []
  /** @internal */
  open = true
}

/**
 * Locks in this process's memory, for unit tests: pass one to as many `fromMemory` as there would be processes. Its clock
 * is `performance.now()`, so fake timers move it.
 */
export class MemoryDatabase {
  /** @internal */
  readonly rows = new Map<string, Row>()

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
  const { rows } = database
  const now = () => performance.timeOrigin + performance.now()
  const nextToken = (previous: bigint) => {
    const clock = BigInt(Math.floor(now() * 1000))
    return previous + 1n > clock ? previous + 1n : clock
  }
  const isHeld = (row: Row | undefined) => row !== undefined && row.owner !== null && row.expiresAt > now()
  const ours = (hold: Hold) => {
    const row = rows.get(hold.name)
    return row?.owner === hold.owner && row.token === hold.token ? row : undefined
  }
  const toState = (name: string, row: Row): LockState => ({
    name,
    owner: row.owner as string,
    token: row.token,
    holder: row.holder,
    expiresInMs: row.expiresAt - now(),
  })

  const lockUntilEnd = (row: Row, tx: MemoryTransaction) => {
    row.guards.add(tx)
    tx.onEnd.push(() => row.guards.delete(tx))
  }

  function acquire({ name, owner, ttlMs, holder }: Attempt, tx: MemoryTransaction | undefined): AttemptResult {
    let row = rows.get(name)
    if (row === undefined) {
      row = { owner: null, token: 0n, expiresAt: 0, holder, guards: new Set() }
      rows.set(name, row)
    }
    const again = row.owner === owner
    const lockedByOthers = [...row.guards].some((other) => other !== tx)
    // WHO HOLDS THE LOCK is decided here.
    if (!again && (isHeld(row) || lockedByOthers)) return { granted: false, holder: isHeld(row) ? row.holder : null }
    const takeover = !again && row.owner !== null
    const token = again ? row.token : nextToken(row.token)
    const taken = { owner: ttlMs === null ? null : owner, token, expiresAt: now() + (ttlMs ?? 0), holder }
    if (tx === undefined) {
      Object.assign(row, taken)
    } else {
      const locked = row
      lockUntilEnd(locked, tx)
      tx.onCommit.push(() => Object.assign(locked, taken))
    }
    return { granted: true, token, takeover }
  }

  return {
    synchronous: true,
    single: false,

    async acquire(attempt) {
      return acquire(attempt, undefined)
    },

    async acquireIn(tx, attempt) {
      checkOpen(tx)
      return acquire(attempt, tx)
    },

    async releaseIn(tx, hold) {
      checkOpen(tx)
      const row = ours(hold)
      if (row === undefined) return false
      lockUntilEnd(row, tx)
      tx.onCommit.push(() => Object.assign(row, { owner: null, expiresAt: Math.min(row.expiresAt, now()) }))
      return true
    },

    async renew(holds): Promise<Renewal[]> {
      return holds.map((hold) => {
        const row = ours(hold)
        if (row === undefined || !isHeld(row)) return { outcome: 'lost', remainingMs: 0 }
        row.expiresAt = Math.max(row.expiresAt, now() + hold.ttlMs)
        return { outcome: 'renewed', remainingMs: row.expiresAt - now() }
      })
    },

    async release(hold) {
      const row = ours(hold)
      if (row === undefined) return 'lost'
      row.owner = null
      row.expiresAt = Math.min(row.expiresAt, now())
      return 'released'
    },

    guard(tx, hold): GuardResult {
      checkOpen(tx)
      const row = ours(hold)
      if (row === undefined || !isHeld(row)) return 'lost'
      lockUntilEnd(row, tx)
      return 'stands'
    },

    async query() {
      throw new LockError('UNSUPPORTED', 'the in-memory engine runs no queries: call guard(tx)')
    },

    async free(names) {
      return new Set(names.filter((name) => !isHeld(rows.get(name)) && !rows.get(name)?.guards.size))
    },

    async inspect(name) {
      const row = rows.get(name)
      return row !== undefined && isHeld(row) ? toState(name, row) : null
    },

    async list(prefix) {
      return [...rows]
        .filter(([name, row]) => name.startsWith(prefix) && isHeld(row))
        .map(([name, row]) => toState(name, row))
        .sort((a, b) => Buffer.compare(Buffer.from(a.name), Buffer.from(b.name)))
    },

    async forceRelease(name) {
      const row = rows.get(name)
      if (row === undefined || !isHeld(row)) return 'free'
      if (row.guards.size > 0) return 'locked'
      row.token = nextToken(row.token)
      row.owner = null
      row.expiresAt = now()
      return 'released'
    },

    async purge(idleMs) {
      const clock = BigInt(Math.floor(now() * 1000))
      let purged = 0
      for (const [name, row] of rows) {
        if (row.expiresAt > now() - idleMs || row.token >= clock || row.guards.size > 0) continue
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

    async migrate() {
      return []
    },
  }
}

function checkOpen(tx: MemoryTransaction): void {
  if (tx instanceof MemoryTransaction && tx.open) return
  throw new LockError('INVALID_ARGUMENT', 'this needs an open transaction of the MemoryDatabase: see its transaction()')
}
