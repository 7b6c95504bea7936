import { CONFIRM_MS } from '../../src/protocol/store.ts'
import type { Books } from './books.ts'
import type { ControlOfModes, History, Hold, Mode, OperationId, Wait, Weight } from './history.ts'
import type { RegisterEntry } from './register.ts'
import type { Scope } from './schedule.ts'

/** A fault as it happened. Times are of `clock`. */
export interface Fault {
  readonly kind: string
  readonly scope: Scope
  /** The worker it happened to; null for those that concern none or all. */
  readonly worker: number | null
  readonly from: number
  readonly until: number
  /** False if it found nothing to break. */
  readonly fired: boolean
  /** The worker is dead since `from`. */
  readonly kills: boolean
  /** The worker, or its event loop, stood still. */
  readonly stops: boolean
  /** The server's clock was set, so that leases end too soon or too late until `until` and a ttl more. */
  readonly setsClock: boolean
}

/** All that is known of a run. */
export interface Evidence extends History, Books {
  readonly ttlMs: number
  /** How long an acquire may wait, and how long the library may take to notice that, with a database that does not answer. */
  readonly waitMs: number
  readonly graceMs: number
  /** How many later callers may be served before one that waits. */
  readonly mostOvertakes: number
  readonly isGuarded: (lock: string) => boolean
  /** How much weight can be held at once by those who share a lock, or have permits of a semaphore. */
  readonly roomOf: (lock: string) => number
  /** Who is stopped in a transaction keeps everybody from writing, as on SQLite. */
  readonly hasOneWriter: boolean
  /** Waiters whose process is gone are passed over at once; elsewhere each such process keeps the lock for a claim's length. */
  readonly seesTheDead: boolean
  readonly register: readonly RegisterEntry[]
  readonly faults: readonly Fault[]
  readonly startedAt: number
  readonly endedAt: number
}

/** What grants are told from. */
type Grants = Pick<History, 'holds' | 'writes'>

/** Sentences that say what must not be; none if all is well. */
export type Violations = string[]

/** Every acknowledged write is present, none that failed is, and none is present twice or from nowhere. */
export function acknowledgedWritesArePresentOnce({ writes, entries, reads, uses, isGuarded }: Evidence): Violations {
  const violations: Violations = []
  const invoked = new Map(writes.map((write) => [write.operation, write]))
  const present = new Set<string>()
  for (const { operation, lock } of [...entries, ...reads, ...uses]) {
    if (present.has(operation)) violations.push(`${operation} was committed twice`)
    present.add(operation)
    const write = invoked.get(operation)
    if (write === undefined) violations.push(`${operation} was committed, but never invoked`)
    else if (write.outcome === 'fail')
      violations.push(`${operation} on ${lock} failed (${write.error}), but was committed`)
  }
  for (const { operation, lock, outcome } of writes) {
    if (outcome === 'ok' && !present.has(operation)) {
      violations.push(
        `${operation} on ${lock} was acknowledged${isGuarded(lock) ? '' : ' (unguarded)'}, but is missing`,
      )
    }
  }
  return violations
}

/** Under the guard each write is worked out from the one before it, and the counter shows the last one. */
export function valuesHaveNoGapAndNoDuplicate({ entries, counters, isGuarded }: Evidence): Violations {
  const violations: Violations = []
  const last = new Map<string, number>()
  for (const { lock, operation, value } of entries) {
    if (!isGuarded(lock)) continue
    const expected = (last.get(lock) ?? 0) + 1
    if (value !== expected) violations.push(`${operation} wrote ${value} to ${lock}, where ${expected} was due`)
    last.set(lock, value)
  }
  for (const [lock, value] of counters) {
    const expected = last.get(lock) ?? 0
    if (isGuarded(lock) && value !== expected) {
      violations.push(`the counter of ${lock} shows ${value}, its last entry ${expected}`)
    }
  }
  return violations
}

/** No write commits after one with a later token. */
export function tokensAreInCommitOrder({ entries, isGuarded }: Evidence): Violations {
  const violations: Violations = []
  const last = new Map<string, number>()
  for (const { lock, operation, token } of entries) {
    if (!isGuarded(lock)) continue
    if (token === null) {
      violations.push(`${operation} was committed on ${lock} without a token`)
      continue
    }
    const previous = last.get(lock) ?? 0
    if (token < previous) violations.push(`${operation} committed token ${token} on ${lock} after ${previous}`)
    last.set(lock, Math.max(token, previous))
  }
  return violations
}

/** A token belongs to one owner for ever. (Those of transactions that did not commit were never given to anybody.) */
export function tokensHaveOneOwner(
  evidence: Grants & Pick<Evidence, 'entries' | 'reads' | 'uses' | 'isGuarded'>,
): Violations {
  const violations: Violations = []
  const owners = new Map<string, string>()
  const claim = (lock: string, token: number, owner: string | null, operation: string) => {
    const key = `${lock} ${token}`
    const first = owners.get(key) ?? owner
    if (first !== owner) violations.push(`${operation} has token ${token} of ${lock} as ${owner}, which ${first} has`)
    if (first !== null) owners.set(key, first)
  }
  for (const { lock, token, owner, operation } of grants(evidence)) claim(lock, token, owner, operation)
  for (const { lock, token, owner, operation } of [...evidence.entries, ...evidence.reads, ...evidence.uses]) {
    if (token !== null && evidence.isGuarded(lock)) claim(lock, token, owner, operation)
  }
  return violations
}

/** Whoever asks after another has been granted the lock gets a higher token. */
export function tokensRiseWithGrants(evidence: Grants): Violations {
  const violations: Violations = []
  for (const [lock, holds] of byLock(grants(evidence))) {
    const asked = [...holds].sort((one, other) => one.requestedAt - other.requestedAt)
    const answered = [...holds].sort((one, other) => one.grantedAt - other.grantedAt)
    let highest = 0
    let index = 0
    for (const { requestedAt, token, operation } of asked) {
      for (; index < answered.length && answered[index]!.grantedAt < requestedAt; index++) {
        highest = Math.max(highest, answered[index]!.token)
      }
      if (token <= highest)
        violations.push(`${operation} got token ${token} of ${lock}, though ${highest} had been granted`)
    }
  }
  return violations
}

/** While the server's clock runs at its rate, no two callers trust in holding one lock, unless both share it. */
export function beliefsDoNotOverlap(evidence: Evidence): Violations {
  const violations: Violations = []
  const isInsane = within(clockChanges(evidence))
  for (const [lock, holds] of byLock(grants(evidence))) {
    // Of those it is told together with what is done under them.
    if (holds.some(({ weight, sharedAt }) => weight !== null || sharedAt !== null)) continue
    let last: Hold | undefined
    for (const hold of [...holds].sort((one, other) => one.grantedAt - other.grantedAt)) {
      // Over when its grant was heard: nobody ever trusted in it.
      if (beliefEnd(hold) <= hold.grantedAt) continue
      if (last !== undefined && hold.grantedAt < beliefEnd(last) && !isInsane(last.grantedAt, hold.grantedAt)) {
        const overlap = (Math.min(beliefEnd(last), beliefEnd(hold)) - hold.grantedAt).toFixed(1)
        violations.push(`${last.operation} and ${hold.operation} both trusted in holding ${lock} for ${overlap} ms`)
      }
      if (last === undefined || beliefEnd(hold) > beliefEnd(last)) last = hold
    }
  }
  return violations
}

export interface Loss {
  readonly hold: Hold
  /** When its holder had to know at the latest. */
  readonly due: number
  /** When its holder knew: by the signal, or because it released the lease itself. */
  readonly knownAt: number | null
}

/** When a lease has not been taken over, how long after the end of its trust its holder may be told. */
const UNHURRIED_SIGNAL_MS = 250

/**
 * The leases that came to their end before they were released, and what was due: the signal before another caller has the
 * lock, or, where the event loop stood still, once the timers have run that became due meanwhile.
 */
export function losses({ ttlMs, faults, gaps, lastSeen, endedAt, ...rest }: Evidence): Loss[] {
  const found: Loss[] = []
  const isInsane = within(clockChanges({ faults, ttlMs }))
  const gapsOf = groupBy(gaps, ({ worker }) => worker)
  const deaths = deathsOf(faults)
  const stopsOf = groupBy(
    faults.filter(({ stops }) => stops),
    ({ worker }) => worker,
  )
  for (const holds of byLock(grants(rest)).values()) {
    const inOrder = [...holds].sort((one, other) => one.token - other.token)
    for (const [index, hold] of inOrder.entries()) {
      const { until, worker, releasedAt, lostAt, grantedAt } = hold
      if (until === null || until <= grantedAt) continue
      const takenAt = nextAfter(inOrder, index)?.grantedAt ?? Number.POSITIVE_INFINITY
      const knownAt = lostAt === null ? releasedAt : Math.min(lostAt, releasedAt ?? lostAt)
      // Released in time: not lost.
      if (lostAt === null && releasedAt !== null && releasedAt <= Math.min(until, takenAt)) continue
      let due = Math.min(takenAt, until + UNHURRIED_SIGNAL_MS)
      for (const gap of gapsOf.get(worker) ?? [])
        if (gap.from <= due && gap.until >= until) due = Math.max(due, gap.until)
      // Killed before it could note that it had been stopped.
      const stop = stopsOf.get(worker)?.find(({ from, until: end }) => from <= due && end >= until)
      const ranAgain = stop === undefined || gapsOf.get(worker)?.some((gap) => gap.until >= stop.until) === true
      // A worker that was killed is known to have run until its last line; it may have stood still after that.
      const diedAt = deaths.get(worker)
      const ranUntil = diedAt === undefined ? endedAt : Math.min(diedAt, lastSeen.get(worker) ?? diedAt)
      if (ranUntil <= due || !ranAgain || isInsane(grantedAt, due)) continue
      found.push({ hold, due, knownAt })
    }
  }
  return found
}

/** Who could only be granted the lock when that hold had ended. Of permits nobody can tell. */
function nextAfter(inOrder: readonly Hold[], index: number): Hold | undefined {
  const { weight, sharedAt, mode } = inOrder[index]!
  if (mode === 'permits' || mode === 'permits without guard') return undefined
  if (weight === null && sharedAt === null) return inOrder[index + 1]
  for (let later = index + 1; later < inOrder.length; later++) {
    if (inOrder[later]!.weight === null) return inOrder[later]
  }
  return undefined
}

export function lossesAreSignalledInTime(evidence: Evidence): Violations {
  return losses(evidence).flatMap(({ hold: { operation, lock }, due, knownAt }) => {
    if (knownAt === null) return [`${operation} was never told that it had lost ${lock}`]
    if (knownAt > due)
      return [`${operation} was told ${(knownAt - due).toFixed(1)} ms too late that it had lost ${lock}`]
    return []
  })
}

export interface Takeover {
  readonly lock: string
  /** From the death of the holder to the grant. */
  readonly milliseconds: number
  /** How long it may take, in milliseconds. */
  readonly most: number
}

/** What a takeover may take beyond the ttl. */
export const TAKEOVER_SLACK_MS = 250

/**
 * The takeovers of locks whose holder was killed, while others were already waiting, for the lock and not for a connection, and
 * nothing was wrong with those.
 */
export function takeovers(evidence: Evidence): Takeover[] {
  const { faults, ttlMs, waits, gaps, endedAt, hasOneWriter, seesTheDead, waitMs, graceMs } = evidence
  const found: Takeover[] = []
  const deaths = deathsOf(faults)
  const waitsFor = groupBy(waits, ({ lock }) => lock)
  for (const [lock, holds] of byLock(grants(evidence))) {
    const inOrder = [...holds].sort((one, other) => one.token - other.token)
    for (const [index, hold] of inOrder.entries()) {
      const diedAt = deaths.get(hold.worker)
      if (diedAt === undefined || hold.until === null || beliefEnd(hold) <= diedAt) continue
      // Beside others who have it, too, there is nothing to take over, or not yet.
      if (hold.weight !== null || hold.sharedAt !== null) continue
      // One that is not served has to wait for as long as that may take. The call of a process that died has no end in its history.
      const isWaiting = ({ worker, mode, invokedAt, endedAt: end, outcome }: Wait) =>
        mode !== 'lease over narrow pool' &&
        invokedAt < diedAt &&
        (end ?? deaths.get(worker) ?? endedAt) > diedAt + (outcome === 'ok' ? ttlMs / 2 : ttlMs + TAKEOVER_SLACK_MS)
      const waitsForIt = waitsFor.get(lock)!
      const waiters = waitsForIt.filter((wait) => wait.worker !== hold.worker && isWaiting(wait))
      const concerned = new Set<number | null>([null, ...waiters.map(({ worker }) => worker)])
      const firstAt = Math.min(...waiters.map(({ invokedAt }) => invokedAt))
      const isDeadAndFirst = ({ worker, invokedAt, endedAt: end }: Wait) =>
        end === null &&
        deaths.get(worker)! <= diedAt + ttlMs &&
        invokedAt < firstAt + ARRIVAL_SLACK_MS &&
        invokedAt + waitMs + graceMs > diedAt
      const dead = new Set(waitsForIt.filter(isDeadAndFirst).map(({ worker }) => worker))
      const most = ttlMs + TAKEOVER_SLACK_MS + (seesTheDead ? 0 : dead.size * CONFIRM_MS)
      const end = diedAt + most
      const isThen = (each: { from: number; until: number }) => each.from < end && each.until > diedAt
      const disturbs = ({ worker }: { worker: number | null }) =>
        concerned.has(worker) || (hasOneWriter && worker !== hold.worker)
      if (waiters.length === 0 || faults.some((fault) => isThen(fault) && disturbs(fault))) continue
      if (gaps.some((gap) => isThen(gap) && concerned.has(gap.worker))) continue
      found.push({ lock, milliseconds: (inOrder[index + 1]?.grantedAt ?? endedAt) - diedAt, most })
    }
  }
  return found
}

export function takeoversAreInTime(evidence: Evidence): Violations {
  return takeovers(evidence)
    .filter(({ milliseconds, most }) => milliseconds > most)
    .map(
      ({ lock, milliseconds, most }) =>
        `${lock} was free ${milliseconds.toFixed(0)} ms after its holder's death, not ${most}`,
    )
}

export interface Overtaken {
  readonly wait: Wait
  /** How many that came later were served before. */
  readonly by: number
}

/** Calls that come within this time of each other may reach the database in either order. */
const ARRIVAL_SLACK_MS = 100
/** Those that stand in the queue. Transactions wait in the database. */
const QUEUEING: readonly Mode[] = [
  'lease',
  'run',
  'write and release',
  'shared lease',
  'permits',
  'lease without guard',
  'modes without guard',
  'permits without guard',
]

/** The callers that were alive and in reach all the time, and yet were served after some that came later. */
export function overtaken(evidence: Evidence): Overtaken[] {
  const { waits, faults, gaps } = evidence
  const counts = new Map<Wait, number>()
  const disturbances = groupBy<{ from: number; until: number }, number | null>(
    faults,
    (fault) => (fault as Fault).worker,
  )
  for (const gap of gaps) disturbances.set(gap.worker, [...(disturbances.get(gap.worker) ?? []), gap])
  const isDisturbed = (worker: number | null, from: number, until: number) =>
    disturbances.get(worker)?.some((each) => each.from < until && each.until > from) === true
  const waitsFor = groupBy(waits, ({ lock }) => lock)
  for (const [lock, holds] of byLock(grants(evidence))) {
    const arrivals = waitsFor.get(lock)!.filter(({ mode }) => QUEUEING.includes(mode))
    arrivals.sort((one, other) => one.invokedAt - other.invokedAt)
    const waiting = new Map<string, Wait>()
    let arrived = 0
    for (const { operation, requestedAt, grantedAt } of [...holds].sort((one, other) => one.token - other.token)) {
      for (; arrived < arrivals.length && arrivals[arrived]!.invokedAt < grantedAt; arrived++) {
        waiting.set(arrivals[arrived]!.operation, arrivals[arrived]!)
      }
      waiting.delete(operation)
      for (const wait of waiting.values()) {
        // They stand in the order of their arrival.
        if (wait.invokedAt + ARRIVAL_SLACK_MS >= requestedAt) break
        if (wait.endedAt !== null && wait.endedAt < grantedAt) waiting.delete(wait.operation)
        else if (
          !isDisturbed(wait.worker, wait.invokedAt, grantedAt) &&
          !isDisturbed(null, wait.invokedAt, grantedAt)
        ) {
          counts.set(wait, (counts.get(wait) ?? 0) + 1)
        }
      }
    }
  }
  return [...counts].map(([wait, by]) => ({ wait, by }))
}

export function nobodyIsOvertakenOften(evidence: Evidence): Violations {
  return overtaken(evidence)
    .filter(({ by }) => by > evidence.mostOvertakes)
    .map(({ wait, by }) => `${wait.operation} waited for ${wait.lock} while ${by} that came later were served`)
}

/** Every call that wants a lock gets an answer, and in time, unless its process dies. */
export function everyWaitEnds({ waits, waitMs, graceMs, faults, gaps, endedAt }: Evidence): Violations {
  const violations: Violations = []
  const deaths = deathsOf(faults)
  for (const { operation, worker, lock, invokedAt, endedAt: answeredAt } of waits) {
    const end = answeredAt ?? deaths.get(worker)
    if (end === undefined) {
      violations.push(`${operation} never got an answer about ${lock}`)
      continue
    }
    const excess = end - invokedAt - waitMs - graceMs
    if (excess <= 0) continue
    // What the nemesis or the machine took away is added to the bound.
    const taken = [...faults, ...gaps]
      .filter((each) => each.worker === null || each.worker === worker)
      .reduce((sum, { from, until }) => sum + Math.max(0, Math.min(end, until) - Math.max(invokedAt, from)), 0)
    if (excess > taken) {
      violations.push(`${operation} waited ${(end - invokedAt).toFixed(0)} ms for an answer about ${lock}`)
    }
  }
  return violations.concat(endedAt === 0 ? ['the run never ended'] : [])
}

/** The external register never went back, and refused nobody who had the highest token it had seen. */
export function registerNeverGoesBack({ register }: Evidence): Violations {
  const violations: Violations = []
  const highest = new Map<string, number>()
  for (const { lock, token, operation, accepted } of register) {
    const seen = highest.get(lock) ?? 0
    if (accepted && token < seen)
      violations.push(`the register of ${lock} went back from ${seen} to ${token} (${operation})`)
    if (!accepted && token >= seen)
      violations.push(`the register of ${lock} refused ${token}, the highest (${operation})`)
    if (accepted) highest.set(lock, Math.max(seen, token))
  }
  return violations
}

/** Something that takes a part of a lock, or all of it, for some time. */
interface Share {
  readonly lock: string
  readonly operation: OperationId
  readonly owner: string | null
  readonly weight: Weight
  readonly from: number
  readonly until: number
}

export interface Excess {
  readonly share: Share
  /** Those who had the lock already. */
  readonly beside: readonly Share[]
}

/**
 * Those that begin while others leave no room for them. Each time is one in which the share has counted for certain: from an
 * answer to the next request. So what is found has happened, whatever the clocks of servers do.
 */
function excesses(shares: readonly Share[], roomOf: Evidence['roomOf']): Excess[] {
  const found: Excess[] = []
  for (const [lock, ofLock] of groupBy(shares, (share) => share.lock)) {
    let current: Share[] = []
    for (const share of [...ofLock].sort((one, other) => one.from - other.from)) {
      current = current.filter(({ until }) => until > share.from)
      const beside = current.filter(({ owner }) => owner === null || owner !== share.owner)
      if (!fits(share, beside, roomOf(lock))) found.push({ share, beside })
      current.push(share)
    }
  }
  return found
}

function fits({ weight }: Share, beside: readonly Share[], room: number): boolean {
  if (weight === null) return beside.length === 0
  const heaviest = new Map<string | null, number>()
  for (const other of beside) {
    if (other.weight === null) return false
    heaviest.set(other.owner, Math.max(other.weight, heaviest.get(other.owner) ?? 0))
  }
  let taken = weight
  for (const each of heaviest.values()) taken += each
  return taken <= room
}

/** The transactions that have committed, for as long as they had to be protected. */
function committedShares({ writes, entries, reads, uses }: Evidence): Share[] {
  const present = new Set([...entries, ...reads, ...uses].map(({ operation }) => operation))
  return writes.flatMap(({ stay, operation, lock, owner, weight }) =>
    stay !== undefined && present.has(operation) ? [{ lock, operation, owner, weight, ...stay }] : [],
  )
}

/** What callers trusted to hold while the server's clock ran at its rate. Who downgrades may have the lock shared from then on. */
function trustedShares(evidence: Evidence): Share[] {
  const isInsane = within(clockChanges(evidence))
  return grants(evidence).flatMap((hold) => {
    const { lock, operation, owner, weight, grantedAt, sharedAt, until } = hold
    const end = beliefEnd(hold)
    if (end <= grantedAt || (until !== null && isInsane(grantedAt, end))) return []
    const whole = { lock, operation, owner, weight, from: grantedAt, until: end }
    if (sharedAt === null || sharedAt >= end) return [whole]
    return [
      { ...whole, until: sharedAt },
      { ...whole, weight: 1, from: sharedAt },
    ]
  })
}

/**
 * Nobody reads beside one who writes, and nobody has permits beside others who have all of them: neither who trusts to hold them,
 * nor who has committed under a guard, while that transaction was open.
 */
export function holdsFitTogether(evidence: Evidence): Violations {
  const shares = [...committedShares(evidence), ...trustedShares(evidence)]
  const guarded = shares.filter(({ lock }) => evidence.isGuarded(lock))
  return excesses(guarded, evidence.roomOf).map(
    ({ share, beside }) =>
      `${share.operation} had ${shown(share)} of ${share.lock} beside ` +
      beside.map((other) => `${other.operation} with ${shown(other)}`).join(' and '),
  )
}

function shown({ weight }: Share): string {
  return weight === null ? 'all' : `${weight}`
}

interface Stray {
  readonly lock: string
  readonly operation: OperationId
  readonly sentence: string
}

/** The reads whose own transaction, or the tokens of the writes before and after them, tell that a writer was there meanwhile. */
function strayReads({ reads, entries }: Pick<Evidence, 'reads' | 'entries'>): Stray[] {
  const writes = groupBy(entries, ({ lock }) => lock)
  const tokens = new Map(
    [...writes].map(([lock, some]) => [lock, new Map(some.map((each) => [each.value, each.token]))]),
  )
  return reads.flatMap(({ operation, lock, token, first, last }) => {
    const stray = (what: string) => [
      { lock, operation, sentence: `${operation} with token ${token} of ${lock} ${what}` },
    ]
    if (first !== last) return stray(`saw ${first}, and then ${last}`)
    const tokenOf = (value: number) => tokens.get(lock)?.get(value) ?? null
    const [before, after] = [tokenOf(first), tokenOf(first + 1)]
    if (before !== null && before > token) return stray(`saw ${first}, which token ${before} had written`)
    if (after !== null && after < token) return stray(`saw ${first}, and token ${after} wrote ${first + 1} afterwards`)
    return []
  })
}

/** A guarded read sees all that was written under lower tokens, and nothing that was written under higher ones. */
export function readsAreBetweenTheirWriters(evidence: Evidence): Violations {
  return strayReads(evidence)
    .filter(({ lock }) => evidence.isGuarded(lock))
    .map(({ sentence }) => sentence)
}

/** There is a seat for each permit, which open transactions have locked. So no guarded one finds too few of them free. */
export function permitsHaveSeats({ uses, isGuarded }: Evidence): Violations {
  return uses
    .filter(({ lock, seats, weight }) => isGuarded(lock) && seats < weight)
    .map(({ operation, lock, seats, weight }) => `${operation} found ${seats} seats of ${lock} free, not ${weight}`)
}

/** What a control has committed, and how much of it was wrong: by what the database has seen, or by the times. */
export function controlErrors(evidence: Evidence, control: ControlOfModes): { writes: number; lost: number } {
  const isOfControl = ({ lock }: { lock: string }) => lock.startsWith(control)
  const shares = committedShares(evidence).filter(isOfControl)
  const wrong = new Set<OperationId>(excesses(shares, evidence.roomOf).map(({ share }) => share.operation))
  for (const { operation } of strayReads(evidence).filter(isOfControl)) wrong.add(operation)
  for (const { operation, lock, seats, weight } of evidence.uses) {
    if (isOfControl({ lock }) && seats < weight) wrong.add(operation)
  }
  return { writes: shares.length, lost: wrong.size }
}

export const checkers = {
  acknowledgedWritesArePresentOnce,
  valuesHaveNoGapAndNoDuplicate,
  tokensAreInCommitOrder,
  tokensHaveOneOwner,
  tokensRiseWithGrants,
  beliefsDoNotOverlap,
  lossesAreSignalledInTime,
  takeoversAreInTime,
  nobodyIsOvertakenOften,
  everyWaitEnds,
  registerNeverGoesBack,
  holdsFitTogether,
  readsAreBetweenTheirWriters,
  permitsHaveSeats,
}

const OF_TRANSACTIONS: readonly Mode[] = ['transaction', 'shared transaction']

/** Grants that took effect: a transaction's hold begins to count with its commit. */
function grants({ holds, writes }: Grants): Hold[] {
  const committed = new Set<string | null>()
  for (const { outcome, owner } of writes) if (outcome === 'ok') committed.add(owner)
  return holds.filter(({ mode, owner }) => !OF_TRANSACTIONS.includes(mode) || committed.has(owner))
}

/** A transaction's hold is sure to last until its commit is sent. */
function beliefEnd({ until, releasedAt, lostAt }: Hold): number {
  const never = Number.POSITIVE_INFINITY
  return Math.min(until ?? never, releasedAt ?? never, lostAt ?? never)
}

function byLock(holds: readonly Hold[]): Map<string, Hold[]> {
  return groupBy(holds, ({ lock }) => lock)
}

function groupBy<T, Key>(items: readonly T[], key: (item: T) => Key): Map<Key, T[]> {
  const groups = new Map<Key, T[]>()
  for (const item of items) {
    const group = groups.get(key(item))
    if (group === undefined) groups.set(key(item), [item])
    else group.push(item)
  }
  return groups
}

function deathsOf(faults: readonly Fault[]): Map<number, number> {
  return new Map(faults.flatMap(({ kills, worker, from }) => (kills && worker !== null ? [[worker, from]] : [])))
}

/** Times in which leases may be longer or shorter than they say. */
function clockChanges({ faults, ttlMs }: Pick<Evidence, 'faults' | 'ttlMs'>): { from: number; until: number }[] {
  return faults.filter(({ setsClock }) => setsClock).map(({ from, until }) => ({ from, until: until + ttlMs }))
}

function within(times: readonly { from: number; until: number }[]): (from: number, until: number) => boolean {
  return (from, until) => times.some((each) => each.from < until && each.until > from)
}
