import fc from 'fast-check'
import { DatabaseError } from '../../src/base/errors.ts'
import type { LockRow, RowHolder, World } from '../../src/protocol/lock-row.ts'
import { CONFIRM_MS, type Grant, type Hold } from '../../src/protocol/store.ts'
import type { Bench, DeskTransaction } from './bench.ts'
import { type Call, type CallIn, type Command, HOUR_MS, NAMES, type Name } from './commands.ts'
import { differenceOf, shown } from './compare.ts'
import { CONFLICT, type Expected, expectedOf, MARK } from './differences.ts'
import { isMark, type TableRow } from './lock-table.ts'
import {
  type Decisions,
  decisionsBy,
  isChanging,
  ModelDatabase,
  ModelTransaction,
  type Outcome,
  type Rules,
  type TransactionVerb,
  type Verb,
  type Verbs,
} from './model.ts'
import { Requests } from './requests.ts'

interface OpenTransaction extends DeskTransaction {
  readonly model: ModelTransaction
}

/** Of what runs out. */
const LONG_AGO_MS = 2 * HOUR_MS
/** A hand-off that is to be confirmed may have run out by then. */
const STALLED_MS = CONFIRM_MS / 2
/** Tokens are of now, by a clock that may be another one, or follow each other: in one transaction there may be several. */
const TOKEN_TOLERANCE = BigInt(2 * 60_000_000)
const MOST_TOKENS = 100n

/**
 * Asks an engine and lock-row.ts the same, one command after the other, and compares what they answer, what they hand over
 * and what rows they leave behind. What is measured (tokens, times) is taken over from the engine once it has passed, so that
 * nothing adds up.
 */
export class Comparison {
  /** Verbs, and what was answered. */
  readonly reached = new Set<string>()
  /** What has made a difference (see differences.ts). */
  readonly met = new Set<string>()
  readonly #bench: Bench
  readonly #decisions: Decisions
  readonly #database = new ModelDatabase()
  readonly #requests: Requests
  /** The token of each name, also of those whose rows were deleted. */
  readonly #tokens = new Map<string, bigint>()
  /** Names of locks that were taken in a transaction last. */
  readonly #marked = new Set<string>()
  readonly #log: string[] = []
  #open: OpenTransaction | undefined

  constructor(bench: Bench, rules: Rules) {
    this.#bench = bench
    this.#decisions = decisionsBy(rules)
    this.#requests = new Requests(bench, this.#database)
  }

  async run(commands: readonly Command[]): Promise<void> {
    await this.#bench.table.clear()
    let beganAt = performance.now()
    try {
      for (const command of commands) {
        beganAt = performance.now()
        await this.#perform(command)
        await this.#keepHandOffs()
      }
      if (this.#open !== undefined) await this.#end(this.#open, true)
    } catch (error) {
      const isAnyHandedOver = [...this.#database.rows.values()].some(({ holders }) => holders.some(isUnconfirmed))
      // The machine stood still: that tells nothing of the engine.
      if (isAnyHandedOver && performance.now() - beganAt > STALLED_MS) fc.pre(false)
      const story = this.#log.map((line) => `  ${line}`).join('\n')
      throw new Error(`${(error as Error).message}\n${story}`, { cause: error })
    } finally {
      await this.#open?.end(false)
    }
  }

  async #perform(command: Command): Promise<void> {
    switch (command.verb) {
      case 'guard':
      case 'acquireIn':
      case 'releaseIn':
      case 'adoptIn':
        this.#open ??= await this.#begin()
        return this.#callIn(this.#open, command)
      case 'end':
        return this.#open && this.#end(this.#open, command.commit)
      case 'acquireIn beside':
        return this.#acquireInBeside(command)
      case 'lease runs out':
        return this.#leaseRunsOut(command.name, command.nth)
      case 'ticket runs out':
        return this.#ticketRunsOut(command.name, command.position)
      case 'clock is set back':
        return this.#clockIsSetBack(command.name)
      default:
        if (this.#open === undefined || !this.#bench.single) await this.#call(command)
    }
  }

  async #call(command: Call): Promise<void> {
    const store = this.#bench.peers[command.peer]!
    const requests = this.#requests
    switch (command.verb) {
      case 'acquire': {
        const { attempts, alike } = command
        const asked = alike ? requests.alike(attempts) : attempts.map((attempt) => requests.attempt(attempt))
        return this.#ask('acquire', asked, () => store.acquire(asked))
      }
      case 'enqueue': {
        const { maxWaiters } = command
        const tickets = requests.tickets(command.tickets)
        const asked = tickets.map((ticket) => ({ ...ticket, maxWaiters }))
        return this.#ask('enqueue', asked, () => store.enqueue(tickets, maxWaiters))
      }
      case 'withdraw': {
        const asked = requests.withdrawals(command.withdrawals)
        return this.#ask('withdraw', asked, async () => (await store.withdraw(asked)).map(withoutMarks))
      }
      case 'poll':
        return this.#ask('poll', toAsked(command.names), async () => {
          // Views have names, and come in any order.
          const views = await store.poll(command.names)
          return command.names.map((name) => views.find((view) => view.name === name) ?? null)
        })
      case 'promote': {
        const { names } = command
        const process = this.#bench.processes[command.process]!
        return this.#ask('promote', toAsked(names), async () => (await store.promote(names, process)).map(withoutMarks))
      }
      case 'release': {
        const process = this.#bench.processes[command.process]!
        const asked = command.holds.map(({ awaited, ...hold }) => ({ ...requests.hold(hold), awaited }))
        return this.#ask('release', asked, () => store.release(asked, process))
      }
      case 'renew': {
        const asked = command.holds.map((hold) => requests.lease(hold))
        return this.#ask('renew', asked, () => store.renew(asked))
      }
      case 'forceRelease': {
        const { name } = command
        const token = requests.token(command)
        return this.#ask('forceRelease', [{ name, token }], async () => [await store.forceRelease(name, token)])
      }
      case 'downgrade': {
        const process = this.#bench.processes[command.process]!
        const { slot: _, ...asked } = requests.hold(command.hold)
        return this.#ask('downgrade', [asked], async () => [await store.downgrade(asked, process)])
      }
      case 'openSemaphore': {
        const { name, permits } = command
        return this.#ask('openSemaphore', [{ name, permits }], async () => [await store.openSemaphore(name, permits)])
      }
      case 'resize': {
        const { name, permits } = command
        const process = this.#bench.processes[command.process]!
        return this.#ask('resize', [{ name, permits }], async () => [await store.resize(name, permits, process)])
      }
      case 'available': {
        const { name } = command
        return this.#ask('available', [{ name }], async () => [await store.available(name)])
      }
      case 'inspect': {
        const { name } = command
        return this.#ask('inspect', [{ name }], async () => [await store.inspect(name)])
      }
      case 'list': {
        const names = NAMES.filter((name) => name.startsWith(command.prefix))
        return this.#ask('inspect', toAsked(names), async () => {
          const states = await store.list(command.prefix)
          const listed = states.map(({ name }) => name)
          this.#check(listed.toSorted(), listed, 'the order')
          return names.map((name) => states.find((state) => state.name === name) ?? null)
        })
      }
      case 'purge': {
        const { idleMs } = command
        // A token of this very millisecond may be ahead of the clock.
        await new Promise((resolve) => setTimeout(resolve, 2))
        const asked = NAMES.map((name) => ({ name, idleMs }))
        return this.#ask('purge', asked, async () => {
          const count = await store.purge(idleMs)
          const left = await this.#bench.table.read()
          const deleted = NAMES.map((name) => this.#database.rows.has(name) && !left.has(name))
          this.#check(deleted.filter(Boolean).length, count, 'the count')
          return deleted
        })
      }
    }
  }

  async #callIn({ tx, model }: OpenTransaction, command: CallIn, other?: ModelTransaction): Promise<void> {
    const { desk } = this.#bench
    switch (command.verb) {
      case 'guard': {
        const leases = command.holds.map((hold) => this.#requests.lease(hold, model))
        const asked = leases.filter((lease) => this.#mayLookAt(lease, model))
        return this.#askIn('guard', model, other, asked, async () => desk.guard(tx, asked))
      }
      case 'releaseIn': {
        const asked = this.#requests.hold(command.hold, model)
        if (!this.#mayLookAt(asked, model)) return
        return this.#askIn('releaseIn', model, other, [asked], async () => [await desk.releaseIn(tx, asked)])
      }
      case 'adoptIn': {
        const asked = this.#requests.hold(command.hold, model)
        if (!this.#mayLookAt(asked, model)) return
        return this.#askIn('adoptIn', model, other, [asked], async () => [await desk.adoptIn(tx, asked)])
      }
      case 'acquireIn': {
        if (!this.#mayTake(command.attempt.name, model)) return
        const asked = this.#requests.attemptIn(command.attempt, model)
        return this.#askIn('acquireIn', model, other, [asked], async () => {
          const reply = await desk.acquireIn(tx, asked, 0)
          if (reply.granted) return [reply]
          // The server's setting is not the lock's.
          const { idleLimitMs: _, ...refusal } = reply
          return [refusal]
        })
      }
    }
  }

  /**
   * On MySQL, a transaction that looks for a row that is not there locks the gap, and nobody creates that row, nor its
   * neighbours, until it ends. And one that guards what it has taken itself does not find its mark in the row any more.
   */
  #mayLookAt({ name, slot }: Hold, tx: ModelTransaction): boolean {
    if (this.#bench.engine !== 'mysql') return true
    const isThere = slot === undefined || this.#database.slotsOf(name).has(slot)
    return this.#database.rows.has(name) && isThere && !tx.holds.has(name)
  }

  /** On MySQL, shared holds are taken off from outside, where all that the transaction itself has locked is in the way. */
  #mayTake(name: Name, tx: ModelTransaction): boolean {
    const isShared = this.#database.rows.get(name)?.holders.some(({ slot }) => slot !== undefined)
    return this.#bench.engine !== 'mysql' || !isShared || !(tx.slots.has(name) || tx.locks.has(name))
  }

  async #acquireInBeside({ attempt, commit }: Extract<Command, { verb: 'acquireIn beside' }>): Promise<void> {
    const { single, engine } = this.#bench
    if (this.#open !== undefined && (single || engine === 'sqlite')) return
    const beside = await this.#begin()
    try {
      await this.#callIn(beside, { verb: 'acquireIn', attempt }, this.#open?.model)
    } catch (error) {
      await beside.end(false)
      throw error
    }
    await this.#end(beside, commit)
  }

  /** A call that commits by itself, beside the open transaction, if there is one. */
  async #ask<V extends Verb>(
    verb: V,
    asked: readonly Verbs[V]['asked'][],
    send: () => Promise<readonly Verbs[V]['reply'][]>,
  ): Promise<void> {
    const replies = await this.#send<V>(verb, asked, send)
    const found = await this.#bench.table.read()
    // Of the rows that purge has deleted there is none.
    const clocks = asked.map(({ name }) =>
      verb === 'purge' ? clockNow() : this.#firstToken(name, found.get(name)?.row),
    )
    const expected = this.#expect(verb, asked, clocks, found, undefined, this.#open?.model)
    this.#compare(verb, asked, expected, replies)
    for (const [index, { name }] of asked.entries()) this.#database.set(name, expected[index]!.row)
    this.#compareRows(found)
  }

  /** A call in a transaction. `other` is one that is open beside it. */
  async #askIn<V extends TransactionVerb>(
    verb: V,
    tx: ModelTransaction,
    other: ModelTransaction | undefined,
    asked: readonly Verbs[V]['asked'][],
    send: () => Promise<readonly Verbs[V]['reply'][]>,
  ): Promise<void> {
    const replies = await this.#send<V>(verb, asked, send)
    const found = this.#bench.single ? undefined : await this.#bench.table.read()
    const clocks = replies.map((reply) => (reply as { readonly token?: bigint }).token ?? 0n)
    const expected = this.#expect(verb, asked, clocks, found, tx, other)
    this.#compare(verb, asked, expected, replies)
    for (const [index, { name }] of asked.entries()) {
      const outcome = expected[index] as Outcome<V>
      if (outcome.created !== undefined) this.#database.set(name, outcome.created)
      tx.apply(verb, asked[index]!, outcome)
    }
    if (found !== undefined) this.#compareRows(found)
  }

  async #send<V extends Verb>(
    verb: V,
    asked: readonly Verbs[V]['asked'][],
    send: () => Promise<readonly Verbs[V]['reply'][]>,
  ): Promise<readonly Expected<V>['reply'][]> {
    const said = `${verb} ${shown(asked)}`
    try {
      const replies = await send()
      this.#log.push(`${said} -> ${shown(replies)}`)
      this.#check(asked.length, replies.length, 'the number of answers')
      return replies
    } catch (error) {
      this.#log.push(`${said} -> ${error}`)
      if (error instanceof DatabaseError && error.failure === 'conflict') return asked.map(() => CONFLICT)
      throw error
    }
  }

  #expect<V extends Verb>(
    verb: V,
    asked: readonly Verbs[V]['asked'][],
    clocks: readonly bigint[],
    found: ReadonlyMap<string, TableRow> | undefined,
    tx: ModelTransaction | undefined,
    other: ModelTransaction | undefined,
  ): Expected<V>[] {
    const { engine } = this.#bench
    const call = asked.map((each, index) => {
      const { name } = each
      const before = this.#database.rowIn(name, tx)
      const lock = other && (engine === 'sqlite' ? 'changed' : other.locks.get(name))
      const slots = other?.slots.get(name)
      // Nothing of a file is locked for its own sake: a statement that writes meanwhile has no effect, whatever it is about.
      const locked = engine === 'sqlite' ? ([false, undefined] as const) : ([lock !== undefined, slots] as const)
      const world = this.#world(clocks[index]!, ...locked)
      const together = asked.filter((other) => other.name === name)
      const decide = (row: LockRow | undefined) => this.#decisions[verb](row, each, world, tx, together)
      return {
        asked: each,
        together,
        before,
        found: found?.get(name)?.row,
        marked: this.#marked.has(name),
        lock,
        slotLock: slots?.get((each as Partial<Hold>).slot ?? 0),
        anySlotLocked: slots !== undefined && slots.size > 0,
        has: tx?.holds.has(name) ?? false,
        world,
        outcome: decide(before),
        decide,
        decideBlindly: () =>
          this.#decisions[verb](before, each, { ...world, locked: false, protects: () => false }, tx, together),
        decideAnew: () => this.#decisions[verb](before, each, world, undefined, together),
      }
    })
    return call.map((each) => expectedOf(engine, verb, each.outcome, { ...each, call }, this.met))
  }

  /** The first of those that were granted by a call that left this row. */
  #firstToken(name: string, row: LockRow | undefined): bigint {
    const before = this.#database.rows.get(name)?.token ?? 0n
    const granted = row?.holders.find(({ token }) => token > before)
    return granted?.token ?? row?.token ?? 0n
  }

  /** `clock` is the token that the engine chose: if it is not below the least that there may be, then both agree. */
  #world(clock: bigint, locked: boolean, slots?: ReadonlyMap<number, unknown>): World {
    const { livingSession } = this.#bench
    return {
      now: Date.now(),
      clock,
      locked,
      protects: (slot) => slots?.has(slot) ?? false,
      hasSession: (process) => process === livingSession,
      sessionEnded: (session) => session !== livingSession,
    }
  }

  #compare<V extends Verb>(
    verb: V,
    asked: readonly Verbs[V]['asked'][],
    expected: readonly Expected<V>[],
    replies: readonly unknown[],
  ): void {
    for (const [index, { reply }] of expected.entries()) {
      this.#check(reply, replies[index], `the answer about ${asked[index]!.name}`)
      this.reached.add(`${verb}: ${inWords(reply)}`)
    }
  }

  #compareRows(found: ReadonlyMap<string, TableRow>): void {
    for (const name of NAMES) {
      const expected = this.#database.rows.get(name)
      const { row, marked = false } = found.get(name) ?? {}
      const isProtected = ({ slot }: RowHolder) => this.#open?.model.slots.get(name)?.has(slot!) ?? false
      const comparable = (row: LockRow) => toComparable(row, isProtected)
      this.#check(expected && comparable(expected), row && comparable(row), `the row of ${name}`)
      if (row === undefined || expected === undefined) continue
      this.#checkToken(row)
      if (marked) this.#marked.add(name)
      else this.#marked.delete(name)
      this.#database.set(name, { ...row, idleSince: row.holders.length > 0 ? expected.idleSince : row.idleSince })
    }
  }

  /** Tokens rise, also over a row that was deleted, and are of now unless they cannot be. */
  #checkToken({ name, token }: LockRow): void {
    const before = this.#tokens.get(name) ?? 0n
    // Nothing of it was granted yet, since it was made.
    if (token === before || token === 0n) return
    const ahead = token - clockNow()
    const isOfNow = ahead > -TOKEN_TOLERANCE && ahead < TOKEN_TOLERANCE
    if (token < before || (token > before + MOST_TOKENS && !isOfNow)) {
      throw new Error(`the token of ${name} went from ${before} to ${token}, at ${clockNow()}`)
    }
    this.#tokens.set(name, token)
  }

  #check(expected: unknown, actual: unknown, what: string): void {
    const difference = differenceOf(expected, actual, Date.now())
    if (difference === null) return
    throw new Error(`${what} differs: ${difference}\nexpected ${shown(expected)}\nwas      ${shown(actual)}`)
  }

  async #begin(): Promise<OpenTransaction> {
    const transaction = await this.#bench.begin()
    this.#log.push('begin')
    return { ...transaction, model: new ModelTransaction() }
  }

  async #end(transaction: OpenTransaction, commit: boolean): Promise<void> {
    if (this.#open === transaction) this.#open = undefined
    await transaction.end(commit)
    this.#log.push(commit ? 'commit' : 'rollback')
    if (commit) this.#database.commit(transaction.model)
    this.#compareRows(await this.#bench.table.read())
  }

  /** Time stands still: a hand-off that is not confirmed runs out when a command says so, and not before. */
  async #keepHandOffs(): Promise<void> {
    for (const [name, row] of this.#database.rows) {
      if (!row.holders.some(runsOutSoon)) continue
      const expiresAt = Date.now() + HOUR_MS
      for (const { slot } of row.holders.filter(runsOutSoon)) await this.#bench.table.setExpiry(name, expiresAt, slot)
      const holders = row.holders.map((holder) => (runsOutSoon(holder) ? { ...holder, expiresAt } : holder))
      this.#database.set(name, { ...row, holders })
    }
  }

  async #leaseRunsOut(name: Name, nth: number): Promise<void> {
    const row = this.#unlockedRow(name)
    if (row === undefined) return
    const time = Date.now() - LONG_AGO_MS
    const holder = row.holders[nth % row.holders.length]
    const over = row.holders.filter((each) => each === holder || each.released)
    if (over.some(({ slot }) => this.#isSlotLocked(name, slot))) return
    for (const { slot } of over) await this.#bench.table.setExpiry(name, time, slot)
    await this.#bench.table.setExpiry(name, time)
    this.#log.push(`the lease of ${name} with the token ${holder?.token} runs out, or it has been idle for long`)
    const holders = row.holders.map((each) => (over.includes(each) ? { ...each, expiresAt: time } : each))
    this.#database.set(name, { ...row, holders, idleSince: Math.min(row.idleSince, time) })
  }

  /** What a transaction has ended waits for nobody else; and on InnoDB, nobody changes what one has locked. */
  #isSlotLocked(name: Name, slot: number | undefined): boolean {
    const lock = slot === undefined ? undefined : this.#open?.model.slots.get(name)?.get(slot)
    return isChanging(lock) || (lock !== undefined && this.#bench.engine === 'mysql')
  }

  async #ticketRunsOut(name: Name, position: number): Promise<void> {
    const row = this.#unlockedRow(name)
    const ticket = row?.queue[position]
    if (row === undefined || ticket === undefined) return
    const until = Date.now() - LONG_AGO_MS
    await this.#bench.table.setUntil(name, position, until)
    this.#log.push(`ticket ${position} of ${name} runs out`)
    this.#database.set(name, { ...row, queue: row.queue.with(position, { ...ticket, until }) })
  }

  /** So that the token of a lock that nobody holds is ahead of it. */
  async #clockIsSetBack(name: Name): Promise<void> {
    const row = this.#unlockedRow(name)
    if (row === undefined || row.holders.length > 0) return
    const token = clockNow() + BigInt(HOUR_MS * 1000)
    await this.#bench.table.setToken(name, token)
    this.#log.push(`the clock is set back: the token of ${name} is ${token}`)
    this.#tokens.set(name, token)
    this.#database.set(name, { ...row, token })
  }

  /** Undefined if there is none, or if a transaction is in the way. */
  #unlockedRow(name: Name): LockRow | undefined {
    const { engine, single } = this.#bench
    const isLocked = this.#open && (engine === 'sqlite' || single || this.#open.model.locks.has(name))
    return isLocked ? undefined : this.#database.rows.get(name)
  }
}

function toAsked(names: readonly Name[]): { readonly name: Name }[] {
  return names.map((name) => ({ name }))
}

/** Microseconds since 1970, as tokens are. */
function clockNow(): bigint {
  return BigInt(Date.now()) * 1000n
}

function isUnconfirmed({ handedTo }: RowHolder): boolean {
  return handedTo !== null
}

function runsOutSoon(holder: RowHolder): boolean {
  const leftMs = holder.expiresAt - Date.now()
  return isUnconfirmed(holder) && leftMs > 0 && leftMs < 2 * CONFIRM_MS
}

/**
 * The table has one column for the end of a hold, and for since when there is none. Of what was released it tells less, and
 * none of it counts any more but what a transaction protects.
 */
function toComparable(row: LockRow, isProtected: (holder: RowHolder) => boolean) {
  const holders = row.holders.flatMap((holder): object[] => {
    const { slot, weight, label, released } = holder
    if (!released) return [holder]
    return isProtected(holder) ? [{ slot, weight, label, released }] : []
  })
  return { ...row, holders, idleSince: holders.length > 0 ? 0 : row.idleSince }
}

/** Marks are random. */
function withoutMarks<Reply extends { readonly grants: readonly Grant[] }>(reply: Reply): Reply {
  const grants = reply.grants.map((grant) => (isMark(grant.process) ? { ...grant, process: MARK } : grant))
  return { ...reply, grants }
}

/** What an answer says, without names and numbers. */
function inWords(reply: unknown): string {
  if (typeof reply !== 'object' || reply === null) return String(reply)
  const words = Object.entries(reply).flatMap(([key, value]) => {
    if (key === 'outcome') return [String(value)]
    return value === true || (Array.isArray(value) && value.length > 0) ? [key] : []
  })
  return words.length === 0 ? 'nothing' : words.join(', ')
}
