import type * as lockRow from '../../src/protocol/lock-row.ts'
import type { LockRow, RowHolder, Step, World } from '../../src/protocol/lock-row.ts'
import type {
  Attempt,
  AttemptInResult,
  AttemptResult,
  DowngradeResult,
  EnqueueResult,
  ExclusiveAttempt,
  GuardResult,
  Hold,
  Kind,
  LockState,
  LockView,
  NewTicket,
  Promotion,
  Release,
  ReleaseResult,
  Renewal,
  ResizeResult,
  Withdrawal,
  WithdrawalResult,
} from '../../src/protocol/store.ts'

/** The functions of lock-row.ts, or others in their place. */
export type Rules = typeof lockRow

interface Named {
  readonly name: string
}

/** What is asked about one lock, by verb, and the answer. */
export interface Verbs {
  acquire: { asked: Attempt; reply: AttemptResult }
  enqueue: { asked: NewTicket & { readonly maxWaiters: number }; reply: EnqueueResult }
  withdraw: { asked: Withdrawal; reply: WithdrawalResult }
  /** Null: there is no row. */
  poll: { asked: Named; reply: LockView | null }
  promote: { asked: Named; reply: Promotion }
  release: { asked: Release; reply: ReleaseResult }
  renew: { asked: Hold & { readonly ttlMs: number }; reply: Renewal }
  forceRelease: { asked: Named & { readonly token: bigint | undefined }; reply: 'released' | 'free' | 'locked' }
  inspect: { asked: Named; reply: LockState | null }
  /** Whether the row is deleted. */
  purge: { asked: Named & { readonly idleMs: number }; reply: boolean }
  acquireIn: { asked: ExclusiveAttempt; reply: AttemptInResult }
  guard: { asked: Hold & { readonly ttlMs: number }; reply: GuardResult }
  releaseIn: { asked: Hold; reply: 'lost' | { readonly awaited: boolean } }
  adoptIn: { asked: Hold; reply: GuardResult }
  downgrade: { asked: Hold; reply: DowngradeResult }
  openSemaphore: { asked: Named & { readonly permits: number }; reply: Kind }
  resize: { asked: Named & { readonly permits: number }; reply: ResizeResult }
  available: { asked: Named; reply: number | 'lock' | null }
}

export type Verb = keyof Verbs
export type TransactionVerb = 'acquireIn' | 'guard' | 'releaseIn' | 'adoptIn'

/** How an open transaction has a row locked: by a guard, since it has changed the row, or since it has taken the lock. */
export type RowLock = 'guarded' | 'changed' | 'taken'

const STRENGTHS: readonly RowLock[] = ['guarded', 'changed', 'taken']

/** Whether the row has a new version, which nobody else sees yet. */
export function isChanging(lock: RowLock | undefined): boolean {
  return lock === 'changed' || lock === 'taken'
}

export interface Outcome<V extends Verb> {
  readonly reply: Verbs[V]['reply']
  /** As it is from then on, or, of a transaction, from its commit on; undefined if there is none. */
  readonly row: LockRow | undefined
  /** What a transaction has of the row from then on. */
  readonly lock?: RowLock
  /** A row that stays, whatever becomes of the transaction. */
  readonly created?: LockRow
  /** Of a shared hold: what the commit makes of the row, whatever else becomes of that until then. */
  readonly change?: Change
}

type Change = (row: LockRow, now: number) => LockRow

/** What a transaction has done, and nobody else sees yet. */
export class ModelTransaction {
  readonly locks = new Map<string, RowLock>()
  /** By name, and by the slots that it has locked. */
  readonly slots = new Map<string, Map<number, RowLock>>()
  /** By name, of shared holds. */
  readonly changes = new Map<string, Change[]>()
  /** What its commit makes of the rows. */
  readonly changed = new Map<string, LockRow>()
  readonly holds = new Map<string, Pick<Hold, 'owner' | 'token'>>()

  apply<V extends TransactionVerb>(verb: V, asked: Verbs[V]['asked'], { reply, row, lock, change }: Outcome<V>): void {
    if (lock === undefined) return
    const { name } = asked
    const { slot } = asked as Hold
    if (slot !== undefined) {
      const slots = this.slots.get(name) ?? new Map<number, RowLock>()
      this.slots.set(name, slots)
      slots.set(slot, stronger(slots.get(slot), lock))
      if (change !== undefined) this.changes.set(name, [...(this.changes.get(name) ?? []), change])
      return
    }
    this.locks.set(name, stronger(this.locks.get(name), lock))
    if (isChanging(lock) && row !== undefined) {
      this.changed.set(name, row)
      this.changes.delete(name)
    }
    if (verb === 'releaseIn' && reply !== 'lost') this.holds.delete(name)
    if (isGranted(reply)) this.holds.set(name, { owner: reply.owner, token: reply.token })
  }
}

function stronger(one: RowLock | undefined, other: RowLock): RowLock {
  return one !== undefined && STRENGTHS.indexOf(one) > STRENGTHS.indexOf(other) ? one : other
}

/** Takes that shared hold off. */
function ending({ owner, token, slot }: Hold): Change {
  const isIt = (holder: RowHolder) => holder.owner === owner && holder.token === token && holder.slot === slot
  return (row, now) => {
    const ends = row.holders.filter(isIt).map(({ expiresAt }) => Math.min(expiresAt, now))
    return { ...row, holders: row.holders.filter((each) => !isIt(each)), idleSince: Math.max(row.idleSince, ...ends) }
  }
}

function isGranted(reply: unknown): reply is Extract<AttemptInResult, { granted: true }> {
  return typeof reply === 'object' && reply !== null && 'granted' in reply && reply.granted === true
}

/** What the database has, as far as lock-row.ts is right. */
export class ModelDatabase {
  readonly #rows = new Map<string, LockRow>()
  readonly #last = new Map<string, Hold>()
  readonly #slots = new Map<string, Set<number>>()

  get rows(): ReadonlyMap<string, LockRow> {
    return this.#rows
  }

  set(name: string, row: LockRow | undefined): void {
    const left = row?.holders.filter(({ released }) => !released).map(({ token }) => token) ?? []
    for (const { owner, token, slot } of this.holdersIn(name, undefined)) {
      if (!left.includes(token)) this.#last.set(name, { name, owner, token, ...(slot !== undefined && { slot }) })
    }
    if (row === undefined) {
      this.#rows.delete(name)
      this.#slots.delete(name)
    } else {
      this.#rows.set(name, row)
      this.#slots.set(name, new Set([...this.slotsOf(name), ...row.holders.flatMap(({ slot }) => slot ?? [])]))
    }
  }

  /** As a transaction sees it. */
  rowIn(name: string, tx: ModelTransaction | undefined): LockRow | undefined {
    const row = tx?.changed.get(name) ?? this.#rows.get(name)
    const now = Date.now()
    return row && (tx?.changes.get(name) ?? []).reduce((changed, change) => change(changed, now), row)
  }

  holdersIn(name: string, tx: ModelTransaction | undefined): readonly RowHolder[] {
    return this.rowIn(name, tx)?.holders.filter(({ released }) => !released) ?? []
  }

  /** Those that have been used since the row was made. */
  slotsOf(name: string): ReadonlySet<number> {
    return this.#slots.get(name) ?? new Set()
  }

  /** The hold that was over last. */
  formerHold(name: string): Hold | undefined {
    return this.#last.get(name)
  }

  commit(tx: ModelTransaction): void {
    for (const name of new Set([...tx.changed.keys(), ...tx.changes.keys()])) this.set(name, this.rowIn(name, tx))
  }
}

/** `together`: all that the call asks of that lock. */
export type Decisions = {
  readonly [V in Verb]: (
    row: LockRow | undefined,
    asked: Verbs[V]['asked'],
    world: World,
    tx: ModelTransaction | undefined,
    together: readonly Verbs[V]['asked'][],
  ) => Outcome<V>
}

/** Each verb on one lock, by `rules`; and on one that has no row, of which they say nothing. */
export function decisionsBy(rules: Rules): Decisions {
  const outcome = <Reply>({ row, reply }: Step<Reply>) => ({ row, reply })
  return {
    acquire(row, asked, world) {
      const step = rules.acquire(row ?? rules.newRow(asked.name, asked.permits), asked, world)
      return { row: step.reply.granted ? step.row : row, reply: step.reply }
    },

    enqueue(row, asked, world, _, together) {
      if (row === undefined) return { row, reply: { outcome: 'missing' } }
      const tickets = together.map(({ maxWaiters: _, ...ticket }) => ticket)
      const step = rules.enqueue(row, tickets, asked.maxWaiters, world)
      return { row: step.row, reply: step.reply[together.indexOf(asked)]! }
    },

    withdraw(row, asked, world, _, together) {
      if (row === undefined) return { row, reply: { withdrawn: true, grants: [] } }
      const step = rules.withdraw(row, together, world)
      return { row: step.row, reply: step.reply[together.indexOf(asked)]! }
    },

    poll: (row, _, world) => ({ row, reply: row === undefined ? null : rules.view(row, world) }),

    promote(row, _, world) {
      if (row === undefined) return { row, reply: { outcome: 'idle', grants: [] } }
      return outcome(rules.promote(row, world))
    },

    release(row, asked, world) {
      if (row === undefined) {
        return { row, reply: { outcome: 'lost', handedOver: false, grants: [], promoteLater: false } }
      }
      return outcome(rules.release(row, asked, world))
    },

    renew(row, asked, world) {
      if (row === undefined) return { row, reply: { outcome: 'lost', remainingMs: 0 } }
      return outcome(rules.renew(row, asked, world))
    },

    forceRelease(row, { token }, world) {
      return row === undefined ? { row, reply: 'free' } : outcome(rules.forceRelease(row, token, world))
    },

    inspect(row, _, world) {
      return { row, reply: row === undefined ? null : rules.state(row, world) }
    },

    purge(row, { idleMs }, world) {
      const gone = row !== undefined && rules.isPurgeable(row, idleMs, world)
      return { row: gone ? undefined : row, reply: gone }
    },

    acquireIn(row, asked, world, tx) {
      const before = row ?? rules.newRow(asked.name)
      const step = rules.acquireIn(before, asked, tx?.holds.get(asked.name), world)
      if (!step.reply.granted || step.row === before) return { row, reply: step.reply }
      return { row: step.row, reply: step.reply, lock: 'taken' }
    },

    guard(row, asked, world) {
      const reply = row === undefined ? 'lost' : rules.guard(row, asked, world)
      return reply === 'stands' ? { row, reply, lock: 'guarded' } : { row, reply }
    },

    releaseIn(row, asked, world) {
      if (row === undefined) return { row, reply: 'lost' }
      const step = rules.releaseIn(row, asked, world)
      return step.reply === 'lost' ? outcome(step) : { ...outcome(step), lock: 'changed', change: ending(asked) }
    },

    adoptIn(row, asked, world) {
      if (row === undefined || asked.slot === undefined) return { row, reply: 'lost' }
      const step = rules.adoptIn(row, asked, world)
      return step.reply === 'lost' ? outcome(step) : { ...outcome(step), lock: 'changed', change: ending(asked) }
    },

    downgrade(row, asked, world) {
      return row === undefined ? { row, reply: { outcome: 'lost' } } : outcome(rules.downgrade(row, asked, world))
    },

    openSemaphore(row, { name, permits }, world) {
      const opened = row ?? rules.newSemaphore(name, permits, world)
      return { row: opened, reply: rules.kindOf(opened) }
    },

    resize(row, { name, permits }, world) {
      const step = rules.resize(row ?? rules.newRow(name, permits), permits, world)
      return step.reply.outcome === 'resized' ? outcome(step) : { row, reply: step.reply }
    },

    available(row, _, world) {
      return { row, reply: row === undefined ? null : rules.available(row, world) }
    },
  }
}
