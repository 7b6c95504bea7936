import type * as lockRow from '../../src/protocol/lock-row.ts'
import type { LockRow, RowHolder, Step, World } from '../../src/protocol/lock-row.ts'
import type {
  Attempt,
  AttemptInResult,
  AttemptResult,
  EnqueueResult,
  GuardResult,
  Hold,
  LockState,
  LockView,
  NewTicket,
  Promotion,
  Release,
  ReleaseResult,
  Renewal,
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
  forceRelease: { asked: Named; reply: 'released' | 'free' | 'locked' }
  inspect: { asked: Named; reply: LockState | null }
  /** Whether the row is deleted. */
  purge: { asked: Named & { readonly idleMs: number }; reply: boolean }
  acquireIn: { asked: Attempt; reply: AttemptInResult }
  guard: { asked: Hold & { readonly ttlMs: number }; reply: GuardResult }
  releaseIn: { asked: Hold; reply: 'lost' | { readonly awaited: boolean } }
}

export type Verb = keyof Verbs
export type TransactionVerb = 'acquireIn' | 'guard' | 'releaseIn'

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
}

/** What a transaction has done, and nobody else sees yet. */
export class ModelTransaction {
  readonly locks = new Map<string, RowLock>()
  /** What its commit makes of the rows. */
  readonly changed = new Map<string, LockRow>()
  readonly holds = new Map<string, Pick<Hold, 'owner' | 'token'>>()

  apply<V extends TransactionVerb>(verb: V, name: string, { reply, row, lock }: Outcome<V>): void {
    if (lock === undefined) return
    const before = this.locks.get(name)
    if (before === undefined || STRENGTHS.indexOf(lock) > STRENGTHS.indexOf(before)) this.locks.set(name, lock)
    if (isChanging(lock) && row !== undefined) this.changed.set(name, row)
    if (verb === 'releaseIn' && reply !== 'lost') this.holds.delete(name)
    if (isGranted(reply)) this.holds.set(name, { owner: reply.owner, token: reply.token })
  }
}

function isGranted(reply: unknown): reply is Extract<AttemptInResult, { granted: true }> {
  return typeof reply === 'object' && reply !== null && 'granted' in reply && reply.granted === true
}

/** What the database has, as far as lock-row.ts is right. */
export class ModelDatabase {
  readonly #rows = new Map<string, LockRow>()
  readonly #last = new Map<string, Hold>()

  get rows(): ReadonlyMap<string, LockRow> {
    return this.#rows
  }

  set(name: string, row: LockRow | undefined): void {
    const holder = this.#rows.get(name)?.holders[0]
    if (holder !== undefined && holder.token !== row?.holders[0]?.token) {
      this.#last.set(name, { name, owner: holder.owner, token: holder.token })
    }
    if (row === undefined) this.#rows.delete(name)
    else this.#rows.set(name, row)
  }

  /** As a transaction sees it. */
  rowIn(name: string, tx: ModelTransaction | undefined): LockRow | undefined {
    return tx?.changed.get(name) ?? this.#rows.get(name)
  }

  holderIn(name: string, tx: ModelTransaction | undefined): RowHolder | undefined {
    return this.rowIn(name, tx)?.holders[0]
  }

  /** The hold that was over last. */
  formerHold(name: string): Hold | undefined {
    return this.#last.get(name)
  }

  commit({ changed }: ModelTransaction): void {
    for (const [name, row] of changed) this.set(name, row)
  }
}

export type Decisions = {
  readonly [V in Verb]: (
    row: LockRow | undefined,
    asked: Verbs[V]['asked'],
    world: World,
    tx: ModelTransaction | undefined,
  ) => Outcome<V>
}

/** Each verb on one lock, by `rules`; and on one that has no row, of which they say nothing. */
export function decisionsBy(rules: Rules): Decisions {
  const outcome = <Reply>({ row, reply }: Step<Reply>) => ({ row, reply })
  return {
    acquire(row, asked, world) {
      const step = rules.acquire(row ?? rules.newRow(asked.name), asked, world)
      return { row: step.reply.granted ? step.row : row, reply: step.reply }
    },

    enqueue(row, { maxWaiters, ...ticket }, world) {
      if (row === undefined) return { row, reply: { outcome: 'missing' } }
      return outcome(rules.enqueue(row, ticket, maxWaiters, world))
    },

    withdraw(row, asked, world) {
      if (row === undefined) return { row, reply: { withdrawn: true, grants: [] } }
      return outcome(rules.withdraw(row, asked, world))
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

    forceRelease(row, _, world) {
      return row === undefined ? { row, reply: 'free' } : outcome(rules.forceRelease(row, world))
    },

    inspect: (row, _, world) => ({ row, reply: row === undefined ? null : rules.state(row, world) }),

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
      return step.reply === 'lost' ? outcome(step) : { ...outcome(step), lock: 'changed' }
    },
  }
}
