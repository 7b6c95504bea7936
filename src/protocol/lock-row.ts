import { grantedOwner, wentTo } from './ids.ts'
import {
  type Attempt,
  type AttemptInResult,
  type AttemptResult,
  CONFIRM_MS,
  type Demand,
  type DowngradeResult,
  type EnqueueResult,
  type ExclusiveAttempt,
  type Grant,
  type GuardResult,
  type Hold,
  type Holder,
  type Kind,
  type LockState,
  type LockView,
  type NewTicket,
  type Promotion,
  type ReleaseResult,
  type Renewal,
  type ResizeResult,
  SHARED,
  type Share,
  type Ticket,
  type Withdrawal,
  type WithdrawalResult,
} from './store.ts'

/** A hold as the database keeps it: also one that has run out, until somebody else gets the lock, or a part of it. */
export interface RowHolder extends Share {
  readonly owner: string
  readonly token: bigint
  readonly label: string
  readonly session: string | null
  readonly expiresAt: number
  /** The process that it was handed to, and that has not confirmed it. */
  readonly handedTo: string | null
  readonly takeover: boolean
  /** Of a shared hold. An exclusive one is kept in the lock's row. */
  readonly slot?: number
  /** Nobody's any more; but it counts until the transactions end that had its slot locked when it was released. */
  readonly released?: true
}

export interface QueuedTicket extends Omit<Ticket, 'name'> {
  /** When the first of its waiters came. */
  readonly since: number
  /** Dead from then on. */
  readonly until: number
}

/** What the database knows of one lock. The row stays when nobody holds the lock, so that its token can only rise. */
export interface LockRow {
  readonly name: string
  /** Of a semaphore. Null: it is a lock, which any number may share. */
  readonly permits: number | null
  /**
   * An exclusive one is alone. None after a release; those that have run out stay, as whoever comes next takes the lock over
   * from them.
   */
  readonly holders: readonly RowHolder[]
  /** The highest that was ever granted. */
  readonly token: bigint
  /** When the last hold that ended by a release or with its transaction did so. */
  readonly idleSince: number
  /** First come, first served. */
  readonly queue: readonly QueuedTicket[]
}

/** What else a decision depends on, read when the row is locked. */
export interface World {
  /** Milliseconds since 1970, by the one clock that counts. */
  readonly now: number
  /** The same in microseconds: what a token is at least. */
  readonly clock: bigint
  /** A transaction, or a statement, of somebody else's has the row locked, as a guard does. */
  readonly locked: boolean
  /** The same of one slot: a transaction of somebody else's guards the hold that is kept there, or has adopted or released it. */
  protects(slot: number): boolean
  hasSession(process: string): boolean
  sessionEnded(session: string): boolean
}

/** Nothing was changed if `row` is the one that went in. */
export interface Step<Reply> {
  readonly row: LockRow
  readonly reply: Reply
  /** What was handed over, whoever learns of it. */
  readonly grants: readonly Grant[]
}

/**
 * The decision about a lock, stated once: what each command makes of a lock's row, and what it answers. Pure functions. The
 * in-memory engine runs them; the others say the same in SQL, and are compared with them (test/engines/differential.test.ts).
 * docs/architecture.md draws the states.
 */
export function newRow(name: string, permits: number | null = null): LockRow {
  return { name, permits, holders: [], token: 0n, idleSince: 0, queue: [] }
}

/** Of a name that is not known. Nobody needs it yet, but it is not idle either. */
export function newSemaphore(name: string, permits: number, { now }: World): LockRow {
  return { ...newRow(name, permits), idleSince: now }
}

export function kindOf({ permits }: Pick<LockRow, 'permits'>): Kind {
  return permits === null ? 'lock' : { permits }
}

/** Greater than all before, also if the clock was set back; and never of a row that was purged before. */
function nextToken(row: LockRow, { clock }: World): bigint {
  return row.token + 1n > clock ? row.token + 1n : clock
}

function lasts({ released, expiresAt, session }: RowHolder, { now, sessionEnded }: World): boolean {
  return !released && expiresAt > now && !(session !== null && sessionEnded(session))
}

function isProtected({ slot }: RowHolder, world: World): boolean {
  return slot !== undefined && world.protects(slot)
}

/** Those that anybody sees. */
function holdersOf(row: LockRow, world: World): readonly RowHolder[] {
  return row.holders.filter((holder) => lasts(holder, world))
}

/** Those that others are kept out by: also what has run out, or was released, while a transaction protects it. */
function counted(row: LockRow, world: World): readonly RowHolder[] {
  return row.holders.filter((holder) => lasts(holder, world) || isProtected(holder, world))
}

/** What they take together. An exclusive hold takes all. */
function weightOf(holders: readonly Share[]): number {
  return holders.reduce((sum, { weight }) => sum + (weight ?? Number.POSITIVE_INFINITY), 0)
}

/** Whether there is room beside holds that take so much. */
function fits({ permits }: LockRow, taken: number, { weight }: Share): boolean {
  return weight === null ? taken === 0 : taken + weight <= (permits ?? Number.MAX_SAFE_INTEGER)
}

/** Whether that can be had at all. */
export function suits({ permits }: Pick<LockRow, 'permits'>, asked: Demand): boolean {
  if (asked.weight !== null && !(asked.weight >= 1)) return false
  if (permits === null || asked.permits === null) return permits === asked.permits
  return asked.weight !== null && asked.weight <= permits
}

/** Who would not have fitted beside what ran out, had that lasted, takes over from it. */
function takesOver(row: LockRow, ended: readonly RowHolder[], taken: number, wanted: Share): boolean {
  return !fits(row, taken + weightOf(ended.filter(({ released }) => !released)), wanted)
}

/** The first that holds which count are not in. */
function freeSlot(holders: readonly RowHolder[]): number {
  const inUse = new Set(holders.map(({ slot }) => slot))
  let slot = 1
  while (inUse.has(slot)) slot++
  return slot
}

/** Where a hold of that weight is kept: nowhere but in the row if it is exclusive. */
function placeFor({ weight }: Share, holders: readonly RowHolder[]): Pick<RowHolder, 'slot'> {
  return weight === null ? {} : { slot: freeSlot(holders) }
}

function placeOf({ slot }: Pick<RowHolder, 'slot'>): Pick<RowHolder, 'slot'> {
  return slot === undefined ? {} : { slot }
}

function isAlive(ticket: QueuedTicket, { now, hasSession }: World): boolean {
  return ticket.until > now && (!ticket.provenAlive || hasSession(ticket.process))
}

function holds(row: LockRow, { owner, token, slot }: Hold): RowHolder | undefined {
  const isIt = (holder: RowHolder) => holder.owner === owner && holder.token === token && holder.slot === slot
  return row.holders.find((holder) => isIt(holder) && !holder.released)
}

function leasesWait({ queue }: LockRow): boolean {
  return queue.some(({ transaction }) => !transaction)
}

/** Without that holder. If it was the last, the lock is free since now, or since before. */
function without(row: LockRow, holder: RowHolder, world: World): LockRow {
  const expiresAt = Math.min(holder.expiresAt, world.now)
  const left = { ...holder, released: true, handedTo: null, expiresAt } as const
  const released = isProtected(holder, world) ? [left] : []
  const holders = row.holders.flatMap((each) => (each === holder ? released : each))
  return { ...row, holders, idleSince: Math.max(row.idleSince, expiresAt) }
}

function freed(row: LockRow, now: number): LockRow {
  const ends = row.holders.map(({ expiresAt }) => Math.min(expiresAt, now))
  return { ...row, holders: [], idleSince: Math.max(row.idleSince, ...ends) }
}

/** As far as one can see without a lock: somebody waits, and nobody is in the way of who is next. */
function isPromotable(row: LockRow, world: World): boolean {
  const holders = holdersOf(row, world)
  const next = row.queue.find((ticket) => isAlive(ticket, world))
  if (next !== undefined) return fits(row, weightOf(holders), next)
  // The dead are cleared away, unless whoever holds it will do that.
  return row.queue.length > 0 && holders.every(({ weight }) => weight !== null)
}

function unchanged<Reply>(row: LockRow, reply: Reply): Step<Reply> {
  return { row, reply, grants: [] }
}

export function acquire(row: LockRow, attempt: Attempt, world: World): Step<AttemptResult> {
  if (!suits(row, attempt)) return unchanged(row, { granted: false, holders: [], queued: false, kind: kindOf(row) })
  const { owner, ttlMs, holder: label, session, weight } = attempt
  const before = row.holders.find((holder) => holder.owner === owner && !holder.released)
  const holders = counted(row, world)
  const others = holders.filter((holder) => holder !== before)
  const taken = weightOf(others)
  const fit = fits(row, taken, attempt)
  // WHO GETS THE LOCK: whoever fits beside those who have it, with nobody waiting; or who has it by this very attempt. The other half is `handOver`.
  const mine = before !== undefined && (fit || lasts(before, world))
  const free = fit && row.queue.length === 0
  const locked = world.locked || (before !== undefined && isProtected(before, world))
  if (locked || !(mine || free)) {
    // None of them is in the way of what would fit.
    const labels = free && !mine ? [] : holders.map(({ label }) => label)
    const refused = { granted: false, holders: labels, queued: isPromotable(row, world) } as const
    return unchanged(row, mine ? { ...refused, ours: true } : refused)
  }
  const ended = row.holders.filter((holder) => !holders.includes(holder))
  const takeover = before?.takeover ?? takesOver(row, ended, taken, attempt)
  const token = before?.token ?? nextToken(row, world)
  const place = before === undefined ? placeFor(attempt, others) : placeOf(before)
  const reply = { granted: true, token, takeover, ...place } as const
  if (ttlMs === null) return { row: { ...freed(row, world.now), token, idleSince: world.now }, reply, grants: [] }
  const hold = {
    owner,
    token,
    label,
    session,
    expiresAt: world.now + ttlMs,
    handedTo: null,
    takeover,
    weight,
    ...place,
  }
  return { row: { ...row, holders: [...others, hold].sort(byToken), token: max(row.token, token) }, reply, grants: [] }
}

/** In the caller's transaction; the row is as the answer says when that commits. `same` is what the transaction has of it already. */
export function acquireIn(
  row: LockRow,
  attempt: ExclusiveAttempt,
  same: Pick<Hold, 'owner' | 'token'> | undefined,
  world: World,
): Step<AttemptInResult> {
  if (same !== undefined) return { row: kept(row, attempt, same, world), reply: { granted: true, ...same }, grants: [] }
  // Behind each other transactions wait in the database, so only leases come before this one.
  const queue = leasesWait(row) ? row.queue : []
  const step = acquire({ ...row, queue }, attempt, world)
  if (!step.reply.granted) {
    const { holders, queued, ours, kind } = step.reply
    if (kind !== undefined) return unchanged(row, { granted: false, holders, queued, kind })
    // If another transaction has locked what was handed to this one, then nobody but that one is in the way.
    return unchanged(row, { granted: false, holders: ours ? [] : holders, queued: !ours && queued })
  }
  const { token } = step.reply
  return { row: { ...step.row, queue: row.queue }, reply: { granted: true, owner: attempt.owner, token }, grants: [] }
}

/** What a transaction has already; with a ttl it becomes a lease. */
function kept(
  row: LockRow,
  { ttlMs, holder: label }: Attempt,
  same: Pick<Hold, 'owner' | 'token'>,
  world: World,
): LockRow {
  if (ttlMs === null) return row
  const expiresAt = world.now + ttlMs
  const lease = { ...same, label, session: null, expiresAt, handedTo: null, takeover: false, weight: null }
  return { ...row, holders: [lease], token: same.token }
}

/** In their order. Whoever finds no room keeps out those behind, or they would pass. */
export function enqueue(
  row: LockRow,
  tickets: readonly NewTicket[],
  maxWaiters: number,
  world: World,
): Step<readonly EnqueueResult[]> {
  const queue = [...row.queue]
  let wanted = waiters(row)
  const places = tickets.map((asked) => {
    if (!suits(row, asked)) return 'unfit'
    wanted += asked.count
    if (wanted > maxWaiters) return 'full'
    const { name: _, permits: __, joins, waitMs, ...terms } = asked
    const until = world.now + waitMs
    const last = queue.at(-1)
    if (last !== undefined && last.ticket === joins) {
      queue[queue.length - 1] = { ...last, count: last.count + asked.count, until: Math.max(last.until, until) }
    } else {
      queue.push({ ...terms, since: world.now, until })
    }
    return { ticket: queue.at(-1)!.ticket }
  })
  const after = places.some((place) => typeof place === 'object') ? { ...row, queue } : row
  const seen = view(after, world)
  const reply = places.map((place): EnqueueResult => {
    if (place === 'unfit') return { outcome: place, kind: kindOf(row) }
    return place === 'full' ? { outcome: place } : { outcome: 'queued', ...place, view: seen }
  })
  return { row: after, reply, grants: [] }
}

export function withdraw(row: LockRow, asked: readonly Withdrawal[], world: World): Step<readonly WithdrawalResult[]> {
  const leaving = new Map(asked.map(({ ticket, count }) => [ticket, count]))
  const queue = row.queue
    .map((each) => ({ ...each, count: each.count - (leaving.get(each.ticket) ?? 0) }))
    .filter(({ count }) => count > 0)
  const after = row.queue.some(({ ticket }) => leaving.has(ticket)) ? { ...row, queue } : row
  const holders = holdersOf(row, world)
  // What nobody holds is on its way to somebody already.
  const promotable = holders.length > 0 && isPromotable(after, world)
  const reply = asked.map(({ ticket }): WithdrawalResult => {
    const handed = holders.filter(({ owner, handedTo }) => handedTo !== null && wentTo(owner, ticket))
    const grants = handed.map((holder) => toGrant(row.name, holder, world))
    return { withdrawn: true, grants, ...(promotable && { promotable }) }
  })
  return { row: after, reply, grants: [] }
}

/**
 * To the first waiters that are alive, as many as fit. The dead before them leave the queue, or all if nobody else is in it;
 * and with what is handed over all holds that have ended go. If nothing is, a hand-off that ran out has been made up for:
 * whoever missed it may queue again. Replies whether nobody but open transactions is in the way of who is next.
 */
function handOver(row: LockRow, world: World): Step<boolean> {
  const holders = [...counted(row, world)]
  const ended = row.holders.filter((holder) => !holders.includes(holder))
  const protectedOnly = weightOf(holders.filter((holder) => !lasts(holder, world)))
  // A hand-off that ran out unconfirmed: its process is gone or stands still, so none of its waiters is next.
  const missed = ended.map(({ handedTo }) => handedTo)
  let queue = row.queue.filter(({ process }) => !missed.includes(process))
  let { token } = row
  let taken = weightOf(holders)
  const grants: Grant[] = []
  for (;;) {
    const first = queue.findIndex((ticket) => isAlive(ticket, world))
    const next = queue[first]
    // WHO GETS THE LOCK next: the first who waits, if there is room, and then the first of the rest. Nobody passes who has to wait on.
    if (next === undefined || !fits(row, taken, next)) {
      const blocked = next !== undefined && fits(row, taken - protectedOnly, next)
      if (grants.length > 0) return { row: { ...row, holders, token, queue }, reply: blocked, grants }
      const kept = row.holders.map((each) => (ended.includes(each) ? { ...each, handedTo: null } : each))
      return { row: { ...row, holders: kept, queue: next === undefined ? [] : queue }, reply: blocked, grants }
    }
    token = nextToken({ ...row, token }, world)
    const { ttlMs, holder: label, session, process: handedTo, weight } = next
    const holder: RowHolder = {
      owner: grantedOwner(next.ticket, token),
      token,
      label,
      session,
      expiresAt: world.now + Math.min(ttlMs, CONFIRM_MS),
      handedTo,
      takeover: takesOver(row, ended, taken, next),
      weight,
      ...placeFor(next, holders),
    }
    holders.push(holder)
    taken += weightOf([next])
    grants.push(toGrant(row.name, holder, world))
    const left = { ...next, count: next.count - 1 }
    queue = [...(left.count > 0 ? [left] : []), ...queue.slice(first + 1)]
  }
}

export function promote(row: LockRow, world: World): Step<Promotion> {
  const held = holdersOf(row, world).length > 0 ? 'held' : 'idle'
  if (!isPromotable(row, world)) return unchanged(row, { outcome: held, grants: [] })
  if (world.locked) return unchanged(row, { outcome: 'locked', grants: [] })
  const { row: after, reply: blocked, grants } = handOver(row, world)
  const outcome = grants.length > 0 ? 'handed over' : blocked ? 'locked' : held
  return { row: after, reply: { outcome, grants }, grants }
}

export function release(row: LockRow, hold: Hold, world: World): Step<ReleaseResult> {
  const holder = holds(row, hold)
  if (holder === undefined) {
    return unchanged(row, { outcome: 'lost', handedOver: false, grants: [], promoteLater: false })
  }
  const free = without(row, holder, world)
  // While a guarded transaction is open, nobody can be given what it protects; but its lease may end.
  const handed = world.locked ? unchanged(free, free.queue.length > 0) : handOver(free, world)
  const { row: after, reply: promoteLater, grants } = handed
  return { row: after, reply: { outcome: 'released', handedOver: grants.length > 0, grants, promoteLater }, grants }
}

/** In the caller's transaction; the row is as the answer says when that commits. */
export function releaseIn(row: LockRow, hold: Hold, world: World): Step<'lost' | { readonly awaited: boolean }> {
  const holder = holds(row, hold)
  if (holder === undefined) return unchanged(row, 'lost')
  return { row: without(row, holder, world), reply: { awaited: row.queue.length > 0 }, grants: [] }
}

/** The same of a shared hold, if it stands. What makes it count until the transaction ends is the lock on its slot. */
export function adoptIn(row: LockRow, hold: Hold, world: World): Step<GuardResult> {
  const reply = guard(row, hold, world)
  return reply === 'stands' ? { row: releaseIn(row, hold, world).row, reply, grants: [] } : unchanged(row, reply)
}

/** It stays the hold that it was, with its token: whoever comes in with it gets a higher one. */
export function downgrade(row: LockRow, hold: Hold, world: World): Step<DowngradeResult> {
  const { owner, token } = hold
  const before = row.holders.find((each) => each.owner === owner && each.token === token && !each.released)
  if (before === undefined || before.expiresAt <= world.now) return unchanged(row, { outcome: 'lost' })
  // Asked again, since the first answer was lost.
  if (before.slot !== undefined) return unchanged(row, { outcome: 'downgraded', slot: before.slot, grants: [] })
  if (world.locked) return unchanged(row, { outcome: 'locked' })
  const others = counted(row, world).filter((holder) => holder !== before)
  const slot = freeSlot(others)
  const shared = { ...row, holders: [...others, { ...before, weight: SHARED, slot, handedTo: null }] }
  const { row: after, grants } = handOver(shared, world)
  return { row: after, reply: { outcome: 'downgraded', slot, grants }, grants }
}

/** What waits for more than there are would wait for ever, with everybody behind it. */
export function resize(row: LockRow, permits: number, world: World): Step<ResizeResult> {
  const refusal = row.permits === null ? 'lock' : 'locked'
  if (row.permits === null || world.locked) return unchanged(row, { outcome: refusal, grants: [] })
  const queue = row.queue.filter((ticket) => suits({ ...row, permits }, { ...ticket, permits }))
  const { row: after, grants } = handOver({ ...row, permits, queue, idleSince: world.now }, world)
  return { row: after, reply: { outcome: 'resized', grants }, grants }
}

export function available(row: LockRow, world: World): number | 'lock' {
  if (row.permits === null) return 'lock'
  return Math.max(0, row.permits - weightOf(holdersOf(row, world)))
}

/** Never shortens, so a late one is harmless. */
export function renew(row: LockRow, hold: Hold & { readonly ttlMs: number }, world: World): Step<Renewal> {
  const holder = holds(row, hold)
  if (holder === undefined || holder.expiresAt <= world.now) return unchanged(row, { outcome: 'lost', remainingMs: 0 })
  const expiresAt = Math.max(holder.expiresAt, world.now + hold.ttlMs)
  const holders = row.holders.map((each) => (each === holder ? { ...holder, expiresAt, handedTo: null } : each))
  return { row: { ...row, holders }, reply: { outcome: 'renewed', remainingMs: expiresAt - world.now }, grants: [] }
}

/** What makes it hold until the transaction ends is the lock on the row that the transaction gets with the answer. */
export function guard(row: LockRow, hold: Hold, world: World): GuardResult {
  const holder = holds(row, hold)
  return holder !== undefined && holder.expiresAt > world.now ? 'stands' : 'lost'
}

/** Of all holders, or of the one with that token, whoever it is. */
export function forceRelease(
  row: LockRow,
  only: bigint | undefined,
  world: World,
): Step<'released' | 'free' | 'locked'> {
  const evicted = row.holders.filter(({ token }) => only === undefined || token === only)
  if (!evicted.some(({ released, expiresAt }) => !released && expiresAt > world.now)) return unchanged(row, 'free')
  if (world.locked || evicted.some((holder) => isProtected(holder, world))) return unchanged(row, 'locked')
  const token = nextToken(row, world)
  const left = row.holders.filter((holder) => !evicted.includes(holder))
  return { row: { ...freed(row, world.now), holders: left, token }, reply: 'released', grants: [] }
}

/** Never one whose token is ahead of the clock: a new row of that name would start at the clock, below it. */
export function isPurgeable(row: LockRow, idleMs: number, world: World): boolean {
  const since = Math.max(row.idleSince, ...row.holders.map(({ expiresAt }) => expiresAt))
  const awaited = row.queue.some((ticket) => isAlive(ticket, world))
  const locked = world.locked || row.holders.some((holder) => isProtected(holder, world))
  return since <= world.now - idleMs && !locked && !awaited && row.token < world.clock
}

export function view(row: LockRow, world: World): LockView {
  const holders = holdersOf(row, world)
  return {
    name: row.name,
    token: row.token,
    holders: holders.map((holder) => toHolder(row.name, holder, world)),
    bySession: holders.some(({ session }) => session !== null),
    promotable: isPromotable(row, world),
    leasesWait: leasesWait(row),
    tickets: row.queue.map(({ ticket }) => ticket),
  }
}

/** Null if nobody holds it. */
export function state(row: LockRow, world: World): LockState | null {
  const holders = holdersOf(row, world).map(({ owner, token, label, expiresAt, weight }) => {
    return { owner, token, holder: label, weight: weight ?? 1, expiresInMs: expiresAt - world.now }
  })
  const [first] = holders
  if (first === undefined) return null
  const { owner, token, holder, expiresInMs } = first
  return {
    ...{ name: row.name, owner, token, holder, expiresInMs, waiters: waiters(row) },
    mode: modeOf(holdersOf(row, world)[0]!),
    holders,
    queue: row.queue.map((ticket) => ({
      holder: ticket.holder,
      mode: modeOf(ticket),
      weight: ticket.weight ?? 1,
      waiters: ticket.count,
      waitingMs: world.now - ticket.since,
    })),
    ...(row.permits !== null && { permits: row.permits }),
  }
}

function modeOf({ weight }: Share): LockState['mode'] {
  return weight === null ? 'exclusive' : 'shared'
}

function waiters({ queue }: LockRow): number {
  return queue.reduce((sum, { count }) => sum + count, 0)
}

function toHolder(name: string, holder: RowHolder, { now }: World): Holder {
  const { owner, token, label, expiresAt, takeover, weight } = holder
  return { name, owner, token, label, remainingMs: expiresAt - now, takeover, weight, ...placeOf(holder) }
}

function toGrant(name: string, holder: RowHolder, { now }: World): Grant {
  const { owner, token, takeover, expiresAt, weight } = holder
  const process = holder.handedTo!
  return { name, owner, token, takeover, process, remainingMs: expiresAt - now, weight, ...placeOf(holder) }
}

function byToken(one: RowHolder, other: RowHolder): number {
  return one.token < other.token ? -1 : 1
}

function max(one: bigint, other: bigint): bigint {
  return one > other ? one : other
}
