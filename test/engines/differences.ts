import { wentTo } from '../../src/protocol/ids.ts'
import type { LockRow, RowHolder, World } from '../../src/protocol/lock-row.ts'
import type { Grant, Hold, ReleaseResult, Withdrawal } from '../../src/protocol/store.ts'
import { differenceOf } from './compare.ts'
import type { SqlEngine } from './lock-table.ts'
import { isChanging, type Outcome, type RowLock, type Verb, type Verbs } from './model.ts'

/** The statement had no effect, and says that it may be repeated. */
export const CONFLICT = 'conflict'

export type Expected<V extends Verb> =
  | Outcome<V>
  | { readonly reply: typeof CONFLICT; readonly row: LockRow | undefined }

/** One lock of a call, and what is known of it. */
export interface Situation<V extends Verb> {
  readonly asked: Verbs[V]['asked']
  /** All that the call asks of that lock. */
  readonly together: readonly Verbs[V]['asked'][]
  /** The row as the call found it, by the model; in a transaction, as that sees it. */
  readonly before: LockRow | undefined
  /** The committed row after the call, as it is in the table; undefined also where it cannot be read. */
  readonly found: LockRow | undefined
  /** The lock was taken in a transaction last, and its holder has not renewed it since. */
  readonly marked: boolean
  /** What an open transaction of another session has of the row. On SQLite, of the file. */
  readonly lock: RowLock | undefined
  /** The same of the slot of the shared hold that is asked about. */
  readonly slotLock?: RowLock | undefined
  /** The same of any slot, also if nothing is kept there any more. */
  readonly anySlotLocked: boolean
  /** The transaction of the call has taken the lock already. */
  readonly has: boolean
  readonly world: World
  /** All locks of the call, and what lock-row.ts makes of each. */
  readonly call: readonly (Pick<Situation<V>, 'asked' | 'before' | 'marked' | 'lock' | 'slotLock'> & {
    readonly outcome: Outcome<V>
  })[]
  /** What it makes of another row. */
  decide(row: LockRow): Outcome<V>
  /** What it makes of the row if it does not know what is locked. */
  decideBlindly(): Outcome<V>
  /** What it makes of the row for a transaction that has not taken the lock yet. */
  decideAnew(): Outcome<V>
}

interface Difference<V extends Verb> {
  readonly engine: SqlEngine
  readonly when: string
  readonly because: string
  /** What the engine does instead; undefined in all other cases. */
  instead(expected: Outcome<V>, situation: Situation<V>): Expected<V> | undefined
}

type Differences = { readonly [V in Verb]?: readonly Difference<V>[] }

const ONE_WRITER = 'a file has one writer; the statement had no effect, and is repeated'
const NEW_VERSION = 'nobody else sees the new version of the row; only a guard, which makes none, lets others change it'
const ROW_LOCK = 'on InnoDB whatever locks a row keeps everybody from changing it'
const TOLD_UNLOCKED =
  'whether a slot is locked is asked only by those who have the row of the lock; others are told of those that have not ended'
const NO_RETURNING = 'no statement answers with what it wrote'
const LOOKED_AT = 'at REPEATABLE READ InnoDB keeps the lock of a row that it has looked at'

const fileIsLocked = {
  engine: 'sqlite',
  when: 'a transaction is open',
  because: ONE_WRITER,
  instead: <V extends Verb>(_: Outcome<V>, { lock, before }: Situation<V>): Expected<V> | undefined =>
    lock && { reply: CONFLICT, row: before },
} as const

/** Where all that is shared is looked at before anything is written. */
const fileIsLockedForChange = {
  engine: 'sqlite',
  when: 'a transaction is open, and any hold would be changed, or is exclusive',
  because: `${ONE_WRITER}; of shared holds it is looked beforehand whether there is anything to write`,
  instead: <V extends Verb>(_: Outcome<V>, { lock, before, call }: Situation<V>): Expected<V> | undefined =>
    lock && call.some((each) => each.outcome.row !== each.before || !('slot' in each.asked))
      ? { reply: CONFLICT, row: before }
      : undefined,
} as const

const fileIsLockedForStep = {
  engine: 'sqlite',
  when: 'a transaction is open, and the row would be changed',
  because: ONE_WRITER,
  instead: <V extends Verb>({ row }: Outcome<V>, { lock, before }: Situation<V>): Expected<V> | undefined =>
    lock && row !== before ? { reply: CONFLICT, row: before } : undefined,
} as const

const fileIsLockedForQueue = {
  engine: 'sqlite',
  when: 'a transaction is open, and any row would be changed, or there is one ticket of each lock',
  because: `${ONE_WRITER}; of several of one lock it is looked beforehand whether there is anything to write`,
  instead: <V extends 'enqueue' | 'withdraw'>(
    _: Outcome<V>,
    { lock, before, call }: Situation<V>,
  ): Expected<V> | undefined =>
    lock && (!isAnyNameTwice(call) || call.some((each) => each.outcome.row !== each.before))
      ? { reply: CONFLICT, row: before }
      : undefined,
} as const

/** What is locked is seen by who tries to lock it, and nobody does who is refused anyway. */
const refusedAnyway = {
  engine: 'mysql',
  when: 'it would be refused also if no transaction had anything locked',
  because: 'the locks of others are seen by who tries for them alone',
  instead<V extends 'acquire' | 'acquireIn'>(expected: Outcome<V>, { decideBlindly }: Situation<V>) {
    const blind = decideBlindly()
    const isSame = differenceOf(expected.reply, blind.reply, Date.now()) === null
    return expected.reply.granted || blind.reply.granted || isSame ? undefined : blind
  },
} as const

const anyFreeSlot = {
  engine: 'mysql',
  when: 'a hold is put into a slot',
  because: 'it takes any one that is free, as whoever else comes at this moment would take the first one, too',
  instead<V extends Verb>({ reply, row, ...rest }: Outcome<V>, { asked, before, found }: Situation<V>) {
    const isNew = ({ token, slot }: RowHolder) =>
      slot !== undefined && !before?.holders.some((each) => each.token === token && each.slot === slot)
    const slots = new Map(found?.holders.filter(isNew).map(({ token, slot }) => [token, slot]))
    const moved = <Each extends Partial<Hold>>(each: Each): Each => {
      const slot = slots.get(each.token ?? (asked as Partial<Hold>).token!)
      return each.slot === undefined || slot === undefined ? each : { ...each, slot }
    }
    if (row === undefined || row.holders.every((holder) => moved(holder).slot === holder.slot)) return undefined
    const { grants } = reply as { readonly grants?: readonly Grant[] }
    const placed = { ...moved(reply as object), ...(grants && { grants: grants.map(moved) }) } as Verbs[V]['reply']
    return { ...rest, reply: placed, row: { ...row, holders: row.holders.map(moved) } }
  },
} as const

const rowBeginsAtTheClock = {
  engine: 'mysql',
  when: 'there is no row',
  because: 'it is made before anything is decided, and is then as any other that nobody holds',
  instead: <V extends 'openSemaphore' | 'resize'>({ reply, row }: Outcome<V>, { before, world }: Situation<V>) =>
    before === undefined && row ? { reply, row: { ...row, token: world.clock } } : undefined,
} as const

/** Where an engine differs from lock-row.ts, and may. Each entry is needed: the test fails if none of its runs meets it. */
const DIFFERENCES: Differences = {
  acquire: [
    refusedAnyway,
    anyFreeSlot,
    {
      engine: 'sqlite',
      when: 'a transaction is open, and any of the locks is seen to be free',
      because: ONE_WRITER,
      instead: (_, { lock, before, call }) =>
        lock && call.some(({ outcome }) => outcome.reply.granted) ? { reply: CONFLICT, row: before } : undefined,
    },
    {
      engine: 'postgres',
      when: 'a transaction protects a shared hold that has ended, and the row is locked or has a queue',
      because: TOLD_UNLOCKED,
      instead: ({ reply, row }, { asked, before, lock, world }) =>
        !reply.granted && (lock || (asked.weight === null && before!.queue.length > 0)) && reply.holders.length > 0
          ? differing(reply, row, before!, world)
          : undefined,
    },
    {
      engine: 'mysql',
      when: 'its own hold is locked, and no more than the ttl is left',
      because: 'whoever is to ask again need not know who has the lock',
      instead: ({ reply, row }, { asked, before, world }) =>
        !reply.granted && reply.ours && asked.weight === null && leftOf(before, world) <= asked.ttlMs!
          ? { reply: { ...reply, holders: [], queued: false }, row }
          : undefined,
    },
    {
      engine: 'mysql',
      when: 'its own hold is locked, and more than the ttl is left',
      because: `${NO_RETURNING}, and what is left tells that it was granted`,
      instead: ({ reply, row }, { asked, before, world }) => {
        const isOurs = !reply.granted && reply.ours && asked.weight === null
        if (!isOurs || leftOf(before, world) <= asked.ttlMs!) return undefined
        const { token, takeover } = before!.holders[0]!
        return { reply: { granted: true, token, takeover }, row }
      },
    },
  ],

  enqueue: [
    fileIsLockedForQueue,
    {
      engine: 'postgres',
      when: 'a transaction has changed the row',
      because: NEW_VERSION,
      instead: ({ reply }, { before, lock }) =>
        before && isChanging(lock)
          ? { reply: reply.outcome === 'unfit' ? reply : { outcome: 'locked' }, row: before }
          : undefined,
    },
    {
      engine: 'mysql',
      when: 'a transaction has the row locked, and there is room in the queue',
      because: ROW_LOCK,
      instead: ({ reply, row }, { before, lock }) =>
        lock && row !== before
          ? { reply: reply.outcome === 'queued' ? { outcome: 'locked' } : reply, row: before }
          : undefined,
    },
  ],

  withdraw: [
    fileIsLockedForQueue,
    {
      engine: 'sqlite',
      when: 'the ticket is neither in the queue nor has it been handed anything, and there is one of each lock',
      because: 'it was in the way of nobody, and its row is not looked at',
      instead: ({ reply }, { asked, before, call }) => {
        const isKnown =
          before?.queue.some(({ ticket }) => ticket === asked.ticket) ||
          before?.holders.some(({ owner }) => wentTo(owner, asked.ticket))
        return reply.promotable && !isKnown && !isAnyNameTwice(call)
          ? { reply: { withdrawn: true, grants: [] }, row: before }
          : undefined
      },
    },
    {
      engine: 'postgres',
      when: 'a transaction has changed the row, and somebody waits',
      because: `${NEW_VERSION}; who waits is not looked at`,
      instead: ({ reply }, { before, lock }) =>
        isChanging(lock) && before && before.queue.length > 0
          ? { reply: { withdrawn: false, grants: reply.grants }, row: before }
          : undefined,
    },
    {
      engine: 'mysql',
      when: 'a transaction has the row locked, and any of the tickets is in the queue',
      because: ROW_LOCK,
      instead: ({ reply }, { asked, before, lock, together }) => {
        const isIn = ({ ticket }: Withdrawal) => before?.queue.some((each) => each.ticket === ticket) === true
        return lock && together.some(isIn)
          ? { reply: { withdrawn: !isIn(asked), grants: reply.grants }, row: before }
          : undefined
      },
    },
  ],

  promote: [fileIsLocked, anyFreeSlot],

  release: [
    fileIsLockedForChange,
    anyFreeSlot,
    {
      engine: 'postgres',
      when: 'a transaction has changed the row, or the slot',
      because: NEW_VERSION,
      instead: ({ reply }, { before, lock, slotLock }) =>
        (isChanging(lock) || isChanging(slotLock)) && reply.outcome === 'released'
          ? { reply: LOCKED, row: before }
          : undefined,
    },
    {
      engine: 'mysql',
      when: 'a transaction has the row locked where the hold is',
      because: ROW_LOCK,
      instead: ({ reply }, situation) =>
        lockOf(situation) && reply.outcome === 'released' ? { reply: LOCKED, row: situation.before } : undefined,
    },
    {
      engine: 'mysql',
      when: 'one lock is handed over to the first in its queue, who waits for all of it',
      because: `${NO_RETURNING}, and to look would cost a round trip; it has looked if others in the queue were dead`,
      instead: ({ reply, row }, { asked, before, world, call }) =>
        reply.handedOver &&
        asked.slot === undefined &&
        ofSameKind(asked, call).length === 1 &&
        isForFirst(before, world)
          ? { reply: { ...reply, grants: [] }, row }
          : undefined,
    },
  ],

  renew: [
    fileIsLockedForChange,
    {
      engine: 'postgres',
      when: 'a transaction has changed the row, or the slot',
      because: NEW_VERSION,
      instead: ({ reply }, { asked, before, lock, slotLock, world }) =>
        (isChanging(lock) || isChanging(slotLock)) && reply.outcome === 'renewed'
          ? { reply: { outcome: 'held', remainingMs: leftOf(before, world, asked) }, row: before }
          : undefined,
    },
    {
      engine: 'mysql',
      when: 'a transaction has the row locked, and no more than the ttl is left',
      because: ROW_LOCK,
      instead({ reply }, situation) {
        const { asked, before, world } = situation
        const remainingMs = leftOf(before, world, asked)
        return lockOf(situation) && reply.outcome === 'renewed' && remainingMs <= asked.ttlMs
          ? { reply: { outcome: 'held', remainingMs }, row: before }
          : undefined
      },
    },
    {
      engine: 'mysql',
      when: 'a transaction has the row locked, and more than the ttl is left',
      because: `${NO_RETURNING}, and what is left tells that it was renewed`,
      instead({ reply }, situation) {
        const { asked, before, world } = situation
        return lockOf(situation) && reply.outcome === 'renewed' && leftOf(before, world, asked) > asked.ttlMs
          ? { reply, row: before }
          : undefined
      },
    },
    {
      engine: 'mysql',
      when: 'several are renewed, and all of them',
      because: `${NO_RETURNING}, and the ttl is left at least`,
      instead({ reply, row }, { asked, call }) {
        const same = ofSameKind(asked, call)
        return same.length > 1 && same.every((each) => !lockOf(each) && each.outcome.reply.outcome === 'renewed')
          ? { reply: { ...reply, remainingMs: asked.ttlMs }, row }
          : undefined
      },
    },
  ],

  forceRelease: [
    {
      engine: 'sqlite',
      when: 'a transaction is open, and the row would be changed',
      because: 'a file has one writer, and a busy file is what a locked row is on other engines',
      instead: ({ row }, { lock, before }) => (lock && row !== before ? { reply: 'locked', row: before } : undefined),
    },
    {
      engine: 'mysql',
      when: 'a transaction has the row locked of a lease whose session is gone',
      because: 'whether anybody has the lock is looked at as inspect does, and nobody has',
      instead: ({ reply, row }, { before, world }) =>
        reply === 'locked' && before?.holders[0]?.slot === undefined && isSessionGone(before, world)
          ? { reply: 'free', row }
          : undefined,
    },
  ],

  purge: [
    fileIsLocked,
    {
      engine: 'postgres',
      when: 'all who wait have lost their sessions before their time is over',
      because: 'a row that stays for longer does no harm, and sessions are not asked about',
      instead: ({ reply }, { before, world }) =>
        reply && before?.queue.some(({ until }) => until > world.now) ? { reply: false, row: before } : undefined,
    },
    {
      engine: 'mysql',
      when: 'a transaction has a slot locked in which nothing is kept any more',
      because: 'a row goes with all of its slots, and what has run out in them is taken off before',
      instead: ({ reply }, { before, anySlotLocked }) =>
        reply && before && anySlotLocked ? { reply: false, row: { ...before, holders: [] } } : undefined,
    },
  ],

  downgrade: [fileIsLockedForStep, anyFreeSlot],

  resize: [fileIsLockedForStep, rowBeginsAtTheClock, anyFreeSlot],

  openSemaphore: [
    fileIsLockedForStep,
    rowBeginsAtTheClock,
    {
      engine: 'postgres',
      when: 'a transaction has made the row, and taken the lock',
      because: 'what it is nobody knows before the commit',
      instead: (_, { before, lock }) => (before === undefined && lock ? { reply: CONFLICT, row: before } : undefined),
    },
  ],

  acquireIn: [
    refusedAnyway,
    {
      engine: 'mysql',
      when: 'there is no row',
      because: 'one that the transaction made would keep everybody else from the name, so it is made before, for good',
      instead: (_, { before, found, decide }) =>
        before === undefined && found !== undefined ? { ...decide(found), created: found } : undefined,
    },
    {
      engine: 'mysql',
      when: 'shared holds have ended',
      because: 'they are taken off before, for good: in the transaction, that would keep others from their slots',
      instead: (_, { before, found, decide }) =>
        before?.holders.some(({ slot }) => slot !== undefined) && found?.holders.length === 0
          ? { ...decide(found), created: found }
          : undefined,
    },
    {
      engine: 'sqlite',
      when: 'the transaction has the lock already, until it ends',
      because:
        'a handle of better-sqlite3 serves all transactions, and nothing in the row tells them apart: it gets a higher token',
      instead: (_, { has, before, decideAnew }) => (has && before?.holders.length === 0 ? decideAnew() : undefined),
    },
    {
      engine: 'sqlite',
      when: 'the transaction has taken a lease of the lock already',
      because: 'the same; it is in its own way, as an earlier transaction on that handle would be',
      instead: (_, { has, before, decideAnew }) => (has && before?.holders.length === 1 ? decideAnew() : undefined),
    },
    {
      engine: 'postgres',
      when: 'the transaction has the lock already, until it ends',
      because: 'the row of such a hold has no owner, and nobody asks for it',
      instead: (outcome, { asked, before, has }) => {
        const { reply, row } = outcome
        if (!has || before?.holders.length !== 0 || !reply.granted) return undefined
        const { owner } = asked
        return {
          ...outcome,
          reply: { ...reply, owner },
          ...(row && { row: row.holders.length === 0 ? row : withHolder(row, { owner }) }),
        }
      },
    },
    {
      engine: 'postgres',
      when: 'a transaction protects a shared hold that has ended, and leases wait',
      because: TOLD_UNLOCKED,
      instead: ({ reply, row }, { before, world }) =>
        !reply.granted && before?.queue.some(({ transaction }) => !transaction) && reply.holders.length > 0
          ? differing(reply, row, before, world)
          : undefined,
    },
    {
      engine: 'postgres',
      when: 'another transaction has taken the lock',
      because: 'transactions wait for each other before they look at the row',
      instead: (_, { lock, before }) =>
        lock === 'taken' ? { reply: { granted: false, holders: [], queued: false }, row: before } : undefined,
    },
    {
      engine: 'mysql',
      when: 'the lock is taken until the transaction ends',
      because: 'who waits for the row compares its expiry with a clock that was read before, so it stays where it was',
      instead(outcome, { asked, before }) {
        const { row, lock, created = before } = outcome
        return asked.ttlMs === null && lock && row && created
          ? { ...outcome, row: { ...row, idleSince: Math.min(idleSince(created), row.idleSince) } }
          : undefined
      },
    },
    ...(['postgres', 'mysql'] as const).map((engine) => ({
      engine,
      when: 'a lease is taken over',
      because: 'transactions are not told of takeovers',
      instead: (outcome: Outcome<'acquireIn'>) =>
        outcome.lock && outcome.row?.holders[0]?.takeover
          ? { ...outcome, row: withHolder(outcome.row, { takeover: false }) }
          : undefined,
    })),
  ],

  guard: [
    {
      engine: 'postgres',
      when: 'the lease has run out, and nobody has taken the lock over',
      because: 'a snapshot may be older than the last renewal, and with the row locked nobody gets the lock',
      instead: ({ reply, row }, { asked, before }) =>
        reply === 'lost' && before?.holders.some((holder) => isIt(holder, asked))
          ? { reply: 'expired', row, lock: 'guarded' }
          : undefined,
    },
    {
      engine: 'mysql',
      when: 'the lease stands',
      because: 'only a write takes part in the certification of a cluster: the guard renews the lease with the commit',
      instead: ({ reply, row }, { asked, world }) => {
        if (reply !== 'stands' || row === undefined) return undefined
        const change = (changed: LockRow): LockRow => {
          const renewed = (holder: RowHolder): RowHolder => {
            const expiresAt = Math.max(holder.expiresAt, world.now + asked.ttlMs)
            return isIt(holder, asked) ? { ...holder, expiresAt, handedTo: null } : holder
          }
          return { ...changed, holders: changed.holders.map(renewed) }
        }
        return { reply, lock: 'changed', row: change(row), change }
      },
    },
    {
      engine: 'mysql',
      when: 'the lease is lost',
      because: LOOKED_AT,
      instead: ({ reply, row }) => (reply === 'lost' && row ? { reply, lock: 'guarded', row } : undefined),
    },
  ],

  releaseIn: [
    {
      engine: 'mysql',
      when: 'the lease is lost',
      because: LOOKED_AT,
      instead: ({ reply, row }) => (reply === 'lost' && row ? { reply, lock: 'guarded', row } : undefined),
    },
  ],

  adoptIn: [
    {
      engine: 'mysql',
      when: 'the hold is lost',
      because: LOOKED_AT,
      instead: ({ reply, row }, { asked }) =>
        reply === 'lost' && row && asked.slot !== undefined ? { reply, lock: 'guarded', row } : undefined,
    },
  ],
}

/** Where an engine differs, and should not. An entry goes when its engine, or lock-row.ts, has been mended. */
const FAULTS: Differences = {
  promote: [
    {
      engine: 'mysql',
      when: 'among those of the call that are handed over is one that was before, and is not confirmed',
      because: `${NO_RETURNING}; a hand-off that is told twice is taken once`,
      instead: ({ reply, row }, situation) => {
        const { before, marked, world, call } = situation
        const [holder] = before?.holders ?? []
        const wasHandedOver = !marked && holder?.handedTo != null && holder.weight === null
        const anyChanged = call.some(
          (each) => each.outcome.reply.outcome === 'handed over' && isHandedOverAtOnce(each, world),
        )
        return reply.outcome === 'held' && wasHandedOver && anyChanged
          ? { reply: { outcome: 'handed over', grants: [grantOf(situation)] }, row }
          : undefined
      },
    },
  ],

  acquireIn: [
    {
      engine: 'mysql',
      when: 'the transaction has released the lease itself',
      because: 'the lock is free to it, unless others wait; it is looked at from outside, where the lease still is',
      instead: (expected, { asked, before, found, decide }) => {
        const holder = found?.holders[0]
        if (before?.holders.length !== 0 || found === undefined || holder === undefined) return undefined
        if (holder.owner === asked.owner) {
          if (expected.reply.granted) return undefined
          const { row, ...taken } = decide({ ...before, queue: [] })
          const idleSince = Math.min(before.idleSince, row!.idleSince)
          return { ...taken, row: { ...row!, queue: before.queue, ...(asked.ttlMs === null && { idleSince }) } }
        }
        const { reply } = decide(found)
        return !reply.granted && reply.holders.length > 0 ? { reply, row: before } : undefined
      },
    },
  ],
}

const LOCKED: ReleaseResult = { outcome: 'locked', handedOver: false, grants: [], promoteLater: false }

/** Of that hold, or of the first. */
function leftOf(row: LockRow | undefined, { now }: World, hold?: Hold): number {
  const holder = hold === undefined ? row?.holders[0] : row?.holders.find(({ token }) => token === hold.token)
  return (holder?.expiresAt ?? 0) - now
}

function isAnyNameTwice(call: readonly { readonly asked: { readonly name: string } }[]): boolean {
  return new Set(call.map(({ asked }) => asked.name)).size < call.length
}

/** What another transaction has of the row that the hold is kept in. */
function lockOf({ asked, lock, slotLock }: Pick<Situation<'release' | 'renew'>, 'asked' | 'lock' | 'slotLock'>) {
  return asked.slot === undefined ? lock : slotLock
}

/** Exclusive holds and shared ones go in statements of their own. */
function ofSameKind<Each extends { readonly asked: Hold }>({ slot }: Hold, call: readonly Each[]): readonly Each[] {
  return call.filter(({ asked }) => (asked.slot === undefined) === (slot === undefined))
}

function isSessionGone(row: LockRow | undefined, world: World): boolean {
  const session = row?.holders[0]?.session ?? null
  return session !== null && world.sessionEnded(session)
}

function isIt({ owner, token, slot, released }: RowHolder, hold: Hold): boolean {
  return owner === hold.owner && token === hold.token && slot === hold.slot && !released
}

/** A refusal that tells of those alone who have not ended. */
function differing<Reply extends { readonly holders: readonly string[] }>(
  reply: Reply,
  row: LockRow | undefined,
  before: LockRow,
  { now, sessionEnded }: World,
): { readonly reply: Reply; readonly row: LockRow | undefined } | undefined {
  const holders = before.holders
    .filter(({ released, expiresAt, session }) => !released && expiresAt > now && !(session && sessionEnded(session)))
    .map(({ label }) => label)
  return holders.length < reply.holders.length ? { reply: { ...reply, holders }, row } : undefined
}

/** As the column of the table has it that says both. */
function idleSince({ holders: [holder], idleSince }: LockRow): number {
  return holder?.expiresAt ?? idleSince
}

/** Whether the first in the queue is alive, and waits for all of it. */
function isForFirst(row: LockRow | undefined, { now }: World): boolean {
  const first = row?.queue[0]
  return first !== undefined && first.until > now && first.weight === null
}

/** On MySQL, by one statement: to the first in the queue, after a lease that was released, or ran out and had been confirmed. */
function isHandedOverAtOnce({ before, marked }: Pick<Situation<Verb>, 'before' | 'marked'>, world: World): boolean {
  const isMissed = before?.holders.some(({ handedTo }) => marked || handedTo !== null)
  return !isMissed && leftOf(before, world) <= 0 && isForFirst(before, world)
}

function withHolder(row: LockRow, change: Partial<RowHolder>): LockRow {
  return { ...row, holders: row.holders.map((holder) => ({ ...holder, ...change })) }
}

/** As the engine reads it from the row, which may have the mark of a transaction, or nothing, for a process. */
function grantOf({ before, marked, world }: Pick<Situation<Verb>, 'before' | 'marked' | 'world'>): Grant {
  const { owner, token, takeover, handedTo } = before!.holders[0]!
  const process = marked ? MARK : (handedTo as string)
  return { name: before!.name, owner, token, takeover, process, remainingMs: leftOf(before, world), weight: null }
}

/** Stands for the mark of any transaction. */
export const MARK = 'a transaction'

/** What is to be expected of the engine. Adds what has made a difference to `met`. */
export function expectedOf<V extends Verb>(
  engine: SqlEngine,
  verb: V,
  outcome: Outcome<V>,
  situation: Situation<V>,
  met: Set<string>,
): Expected<V> {
  let expected = outcome
  for (const difference of entriesOf(verb)) {
    const instead = difference.engine === engine ? difference.instead(expected, situation) : undefined
    if (instead === undefined) continue
    met.add(titleOf(verb, difference))
    if (instead.reply === CONFLICT) return instead
    expected = instead as Outcome<V>
  }
  return expected
}

/** All that may make a difference on an engine, as `met` has it. */
export function titlesOf(engine: SqlEngine): string[] {
  const verbs = new Set([...Object.keys(DIFFERENCES), ...Object.keys(FAULTS)]) as Set<Verb>
  return [...verbs].flatMap((verb) =>
    entriesOf(verb)
      .filter((difference) => difference.engine === engine)
      .map((difference) => titleOf(verb, difference)),
  )
}

function entriesOf<V extends Verb>(verb: V): readonly Difference<V>[] {
  return [...(DIFFERENCES[verb] ?? []), ...(FAULTS[verb] ?? [])] as readonly Difference<V>[]
}

function titleOf(verb: Verb, { when }: Pick<Difference<Verb>, 'when'>): string {
  return `${verb}: ${when}`
}
