import { ticketOf, wasHandedOver } from '../../src/protocol/ids.ts'
import type { QueuedTicket } from '../../src/protocol/lock-row.ts'
import {
  type Attempt,
  type Demand,
  EXCLUSIVE,
  type ExclusiveAttempt,
  type Hold,
  type NewTicket,
  SHARED,
  type Withdrawal,
} from '../../src/protocol/store.ts'
import type { Bench } from './bench.ts'
import type {
  AskedAttempt,
  AskedHold,
  AskedLease,
  AskedShare,
  AskedTicket,
  AskedWithdrawal,
  AskedWithin,
  Name,
  Session,
  WhichHold,
  WhichOwner,
  WhichTicket,
  WhichToken,
} from './commands.ts'
import type { ModelDatabase, ModelTransaction } from './model.ts'

/** Of a semaphore that is not there yet. */
const PERMITS = 3

/** Makes of "the holder", "the last ticket" and the like whom a command means at this moment. */
export class Requests {
  readonly #bench: Bench
  readonly #database: ModelDatabase
  #ids = 0

  constructor(bench: Bench, database: ModelDatabase) {
    this.#bench = bench
    this.#database = database
  }

  attempt({ owner, session, how, weight, ...asked }: AskedAttempt): Attempt {
    const again = owner === 'holder' ? this.#database.holdersIn(asked.name, undefined)[0] : undefined
    const demand = this.#demand(asked.name, { how, weight })
    const wanted = again === undefined ? demand : this.#again(asked.name, again)
    const attempt = { ...wanted, ...asked, owner: this.#owner(asked.name, owner), session: this.#session(session) }
    return this.#isOtherwise(asked.name, attempt) ? { ...attempt, owner: this.#newOwner() } : attempt
  }

  /** As a process sends them: all as the first one. */
  alike(attempts: readonly AskedAttempt[]): Attempt[] {
    const first = this.attempt(attempts[0]!)
    return attempts.map(({ name }) => ({ ...first, name })).filter(({ name }) => !this.#isOtherwise(name, first))
  }

  attemptIn({ name, owner, ttlMs }: AskedWithin, tx: ModelTransaction): ExclusiveAttempt {
    const attempt = { ...EXCLUSIVE, name, owner: this.#owner(name, owner, tx), ttlMs, holder: 'clerk', session: null }
    return this.#isOtherwise(name, attempt, tx) ? { ...attempt, owner: this.#newOwner() } : attempt
  }

  hold({ name, which, nth }: AskedHold, tx?: ModelTransaction): Hold {
    const unheardOf: Hold = { name, owner: this.#newOwner(), token: 1n }
    const former = this.#database.formerHold(name) ?? unheardOf
    const holders = this.#database.holdersIn(name, tx)
    const holder = holders[nth % holders.length]
    const held = holder === undefined ? former : toHold(name, holder)
    const holds: Record<WhichHold, Hold> = {
      held,
      'of another owner': { ...held, owner: unheardOf.owner },
      'of another token': { ...held, token: held.token - 1n },
      'of another slot': { ...held, slot: (held.slot ?? 0) + 1 },
      former,
    }
    return holds[which]
  }

  lease({ ttlMs, ...hold }: AskedLease, tx?: ModelTransaction): Hold & { readonly ttlMs: number } {
    return { ...this.hold(hold, tx), ttlMs }
  }

  token({ name, token, nth }: { name: Name; token: WhichToken; nth: number }): bigint | undefined {
    const tokens: Record<WhichToken, bigint | undefined> = {
      any: undefined,
      'of a holder': this.hold({ name, which: 'held', nth }).token,
      'of a former one': this.#database.formerHold(name)?.token ?? 1n,
      'of nobody': this.hold({ name, which: 'of another token', nth }).token,
    }
    return tokens[token]
  }

  #ticketId(name: Name, which: WhichTicket): string {
    const row = this.#database.rows.get(name)
    const handedOver = row?.holders.findLast((holder) => wasHandedOver({ name, ...holder }))
    const ids: Record<WhichTicket, string | undefined> = {
      first: row?.queue[0]?.ticket,
      last: row?.queue.at(-1)?.ticket,
      'handed over': handedOver && ticketOf(handedOver.owner),
      unknown: undefined,
    }
    return ids[which] ?? this.#newTicketId()
  }

  /** Of those for one lock, the first alone may join another one. */
  tickets(asked: readonly AskedTicket[]): NewTicket[] {
    const isFirst = ({ name }: AskedTicket, index: number) => asked.findIndex((other) => other.name === name) === index
    return asked.map((each, index) => this.#ticket(isFirst(each, index) ? each : { ...each, joins: 'nothing' }))
  }

  /** Each ticket once. */
  withdrawals(asked: readonly AskedWithdrawal[]): Withdrawal[] {
    const all = asked.map(({ name, which, count }) => ({ name, ticket: this.#ticketId(name, which), count }))
    return all.filter(({ ticket }, index) => all.findIndex((other) => other.ticket === ticket) === index)
  }

  /** What an engine has no use for, it is not told; and what it stores nothing of, it is not asked for. */
  #ticket({ name, joins, count, waitMs, session, process, how, weight, ...terms }: AskedTicket): NewTicket {
    const { engine, processes } = this.#bench
    const row = this.#database.rows.get(name)
    const queue = row?.queue ?? []
    const last = queue.at(-1)
    const demand = this.#demand(name, { how, weight })
    const ticket = { name, ticket: this.#newTicketId(), count, waitMs }
    // Whoever joins a ticket has its terms.
    if (joins === 'the last' && last !== undefined)
      return { ...termsOf(last), ...ticket, permits: row!.permits, joins: last.ticket }
    return {
      ...terms,
      ...ticket,
      ...demand,
      joins: joins === 'another' ? (queue.at(-2)?.ticket ?? this.#newTicketId()) : null,
      // MySQL passes over a hand-off to a session that is gone at once, as it reads the row again: several steps in one.
      session: engine === 'mysql' && session === 'gone' ? null : this.#session(session),
      process: processes[process]!,
      listening: engine === 'postgres' && terms.listening,
      provenAlive: engine === 'postgres' && terms.provenAlive,
      transaction: engine !== 'sqlite' && terms.transaction,
    }
  }

  /** What an attempt had asked for that is repeated. */
  #again(name: Name, { weight }: Pick<Demand, 'weight'>): Demand {
    return { weight, permits: this.#database.rows.get(name)?.permits ?? null }
  }

  /** Whether this owner has something else than what is asked for: owners are never used again. */
  #isOtherwise(name: Name, { owner, weight }: Pick<Attempt, 'owner' | 'weight'>, tx?: ModelTransaction): boolean {
    return this.#database.holdersIn(name, tx).some((holder) => holder.owner === owner && holder.weight !== weight)
  }

  #demand(name: Name, { how, weight }: AskedShare): Demand {
    const permits = this.#database.rows.get(name)?.permits ?? null
    const ofLock = { weight: how === 'shared' ? SHARED : null, permits: null }
    if (permits === null) return how === 'as what it is not' ? { weight, permits: PERMITS } : ofLock
    return how === 'as what it is not' ? ofLock : { weight, permits }
  }

  #owner(name: Name, which: WhichOwner, tx?: ModelTransaction): string {
    const owners: Record<WhichOwner, string | undefined> = {
      new: undefined,
      holder: this.#database.holdersIn(name, tx)[0]?.owner,
      former: this.#database.formerHold(name)?.owner,
    }
    return owners[which] ?? this.#newOwner()
  }

  #session(session: Session): string | null {
    const { livingSession, goneSession } = this.#bench
    const sessions: Record<Session, string | null> = { none: null, living: livingSession, gone: goneSession }
    return sessions[session]
  }

  /** Counted, so that a run can be read. */
  #newOwner(): string {
    return `f${this.#nextId().padStart(31, '0')}`
  }

  #newTicketId(): string {
    return `e${this.#nextId().padStart(15, '0')}`
  }

  #nextId(): string {
    return (++this.#ids).toString(16)
  }
}

function toHold(name: string, { owner, token, slot }: Omit<Hold, 'name'>): Hold {
  return { name, owner, token, ...(slot !== undefined && { slot }) }
}

function termsOf({ ticket: _, count: __, until: ___, since: ____, ...terms }: QueuedTicket) {
  return terms
}
