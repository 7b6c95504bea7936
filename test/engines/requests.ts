import { ticketOf, wasHandedOver } from '../../src/protocol/ids.ts'
import type { QueuedTicket } from '../../src/protocol/lock-row.ts'
import type { Attempt, Hold, NewTicket } from '../../src/protocol/store.ts'
import type { Bench } from './bench.ts'
import type {
  AskedAttempt,
  AskedHold,
  AskedLease,
  AskedTicket,
  AskedWithin,
  Name,
  Session,
  WhichHold,
  WhichOwner,
  WhichTicket,
} from './commands.ts'
import type { ModelDatabase, ModelTransaction } from './model.ts'

/** Makes of "the holder", "the last ticket" and the like whom a command means at this moment. */
export class Requests {
  readonly #bench: Bench
  readonly #database: ModelDatabase
  #ids = 0

  constructor(bench: Bench, database: ModelDatabase) {
    this.#bench = bench
    this.#database = database
  }

  attempt({ owner, session, ...asked }: AskedAttempt): Attempt {
    return { ...asked, owner: this.#owner(asked.name, owner), session: this.#session(session) }
  }

  /** As a process sends them: all as the first one. */
  alike(attempts: readonly AskedAttempt[]): Attempt[] {
    const first = this.attempt(attempts[0]!)
    return attempts.map(({ name }) => ({ ...first, name }))
  }

  attemptIn({ name, owner, ttlMs }: AskedWithin, tx: ModelTransaction): Attempt {
    return { name, owner: this.#owner(name, owner, tx), ttlMs, holder: 'clerk', session: null }
  }

  hold({ name, which }: AskedHold, tx?: ModelTransaction): Hold {
    const unheardOf: Hold = { name, owner: this.#newOwner(), token: 1n }
    const former = this.#database.formerHold(name) ?? unheardOf
    const holder = this.#database.holderIn(name, tx)
    const held = holder === undefined ? former : { name, owner: holder.owner, token: holder.token }
    const holds: Record<WhichHold, Hold> = {
      held,
      'of another owner': { ...held, owner: unheardOf.owner },
      'of another token': { ...held, token: held.token - 1n },
      former,
    }
    return holds[which]
  }

  lease({ ttlMs, ...hold }: AskedLease, tx?: ModelTransaction): Hold & { readonly ttlMs: number } {
    return { ...this.hold(hold, tx), ttlMs }
  }

  ticketId(name: Name, which: WhichTicket): string {
    const row = this.#database.rows.get(name)
    const holder = row?.holders[0]
    const ids: Record<WhichTicket, string | undefined> = {
      first: row?.queue[0]?.ticket,
      last: row?.queue.at(-1)?.ticket,
      'handed over': holder && wasHandedOver({ name, ...holder }) ? ticketOf(holder.owner) : undefined,
      unknown: undefined,
    }
    return ids[which] ?? this.#newTicketId()
  }

  /** What an engine has no use for, it is not told; and what it stores nothing of, it is not asked for. */
  ticket({ name, joins, count, waitMs, session, process, ...terms }: AskedTicket): NewTicket {
    const { engine, processes } = this.#bench
    const queue = this.#database.rows.get(name)?.queue ?? []
    const last = queue.at(-1)
    const ticket = { name, ticket: this.#newTicketId(), count, waitMs }
    // Whoever joins a ticket has its terms.
    if (joins === 'the last' && last !== undefined) return { ...termsOf(last), ...ticket, joins: last.ticket }
    return {
      ...terms,
      ...ticket,
      joins: joins === 'another' ? (queue.at(-2)?.ticket ?? this.#newTicketId()) : null,
      // MySQL passes over a hand-off to a session that is gone at once, as it reads the row again: several steps in one.
      session: engine === 'mysql' && session === 'gone' ? null : this.#session(session),
      process: processes[process]!,
      listening: engine === 'postgres' && terms.listening,
      provenAlive: engine === 'postgres' && terms.provenAlive,
      transaction: engine !== 'sqlite' && terms.transaction,
    }
  }

  #owner(name: Name, which: WhichOwner, tx?: ModelTransaction): string {
    const owners: Record<WhichOwner, string | undefined> = {
      new: undefined,
      holder: this.#database.holderIn(name, tx)?.owner,
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

function termsOf({ ticket: _, count: __, until: ___, ...terms }: QueuedTicket) {
  return terms
}
