import type { SqlEngine, Statement } from '../../src/adapters/adapter.ts'
import { mysqlStatements } from '../../src/engines/mysql/store.ts'
import { toAskedAttempt, toAskedHold, toAskedLease, toAskedSlot } from '../../src/engines/mysql/values.ts'
import { postgresStatements } from '../../src/engines/postgres/store.ts'
import { sqliteStatements } from '../../src/engines/sqlite/store.ts'
import { EXCLUSIVE } from '../../src/protocol/store.ts'

interface Statements {
  postgres: ReturnType<typeof postgresStatements>
  mysql: ReturnType<typeof mysqlStatements>
  sqlite: ReturnType<typeof sqliteStatements>
}

export type StatementName<Engine extends SqlEngine> = keyof Statements[Engine] & string

/** What the database gets. */
export interface Sent {
  readonly text: string
  /** Of MySQL's that are about one lock or many: the text for so many. */
  readonly ofMany?: (count: number) => string
}

const name = Buffer.from('name')
const hold = { name: 'name', owner: 'owner', token: 1n }
const attempt = { ...EXCLUSIVE, ...hold, ttlMs: 1000, holder: 'holder', session: null }
const { session: _, ...askedAttempt } = toAskedAttempt(attempt, null)
const askedWithin = { ...askedAttempt, mark: name }
const lease = toAskedLease({ ...hold, ttlMs: 1000 })
const slot = toAskedSlot({ ...hold, slot: 1 })
const holder = { owner: name, holder: name, session: null, handedTo: null, takeover: 0 } as const
const mark = { kind: name, name, part: name, value: name, token: 1n, keepMs: null }
const slotChange = {
  ...{ slot: 1, wasOwner: null, wasToken: 1n, wasWeight: 0, wasExpiry: 1n },
  ...{ ...holder, token: 2n, weight: 1, expiry: 2n, nth: 0 },
}
const change = {
  ...{ name, wasToken: 1n, wasUsed: 0, wasOwner: null, wasExpiry: 1n, wasPermits: null, wasQueue: null },
  ...{ ...holder, token: 2n, expiry: 2n, queue: null, permits: null, used: 1, grants: 1, added: 1 },
}

/** MySQL's statements have their columns, and hints, from what they are asked: here as the store asks, in the same order. */
const ASKED: { [Name in StatementName<'mysql'>]: Parameters<Statements['mysql'][Name]> } = {
  acquire: [[toAskedAttempt(attempt, null)]],
  create: [[toAskedAttempt(attempt, null)]],
  createInMariadb: [[toAskedAttempt(attempt, null)], 'innodb_lock_wait_timeout=1'],
  createFree: [{ name }],
  createFreeInMariadb: [{ name }, 'innodb_lock_wait_timeout=0'],
  lockRowNow: [{ name }],
  takeRow: [askedWithin],
  takeRowInMariadb: [askedWithin, 'max_statement_time=2.5, innodb_lock_wait_timeout=3600'],
  takeRowNow: [askedWithin],
  takeFree: [[{ name, holder: name, deadSession: null, mark: name }]],
  tokens: [[{ name }]],
  lockRowsNow: [[{ name }]],
  createAllFree: [[{ name }]],
  lockRow: [name, 2500],
  ownHold: [{ name, token: 1n, mark: name }],
  ownHoldInMariadb: [{ name, token: 1n, mark: name }, 'innodb_lock_wait_timeout=0'],
  keepAsLease: [{ name, token: 1n, mark: name, owner: name, ttl: 1000 }],
  closeGates: [[{ name, closer: name }]],
  openGates: [[{ name, closer: name }]],
  enqueue: [
    [
      {
        name,
        ticket: name,
        joins: null,
        count: 1,
        weight: null,
        permits: null,
        ttl: 1000,
        holder: name,
        session: null,
        process: name,
        transaction: 0,
        wait: 1000,
        most: 10,
      },
    ],
  ],
  withdraw: [[{ name, ticket: name, count: 1, changeId: name }]],
  changes: [[name]],
  promote: [[{ name }]],
  release: [[toAskedHold(hold)]],
  handOver: [[toAskedHold(hold)]],
  releaseIn: [toAskedHold(hold)],
  releaseSlotIn: [slot],
  adoptIn: [slot],
  awaited: [{ name }],
  renew: [[lease]],
  renewSlots: [[{ ...slot, ttl: 1000 }]],
  guard: [[lease]],
  guardSlots: [[{ ...slot, ttl: 1000 }]],
  token: [{ name }],
  read: [[name]],
  list: [{ prefix: name }],
  forceRelease: [{ name, token: 1n }],
  purgeable: [{ idleMs: 1000 }],
  purge: [[{ name, idleMs: 1000 }]],
  purgeWithSlots: [[{ name, idleMs: 1000, slot: 1, most: 1 }]],
  publishWaits: [{ process: name, waits: name }],
  withdrawWaits: [{ process: name }],
  waitsOfOthers: [{ process: name }],
  purgeableWaits: [{}],
  purgeWaits: [[{ process: name }]],
  readMarks: [[{ kind: name, name }]],
  makeMark: [{ kind: name, name, part: name }],
  writeMarkUnder: [[{ ...lease, kind: name, part: name, value: name, keepMs: null }]],
  writeMark: [mark],
  deleteMark: [mark],
  beginMark: [mark],
  markNow: [mark],
  writeMarkIn: [mark],
  checkpointed: [{ name, token: 1n }],
  purgeableMarks: [{ idleMs: 1000 }],
  purgeMarks: [[{ kind: name, name, part: name, idleMs: 1000 }]],
  whole: [[name]],
  change: [change],
  changeWithSlots: [change, [slotChange]],
  share: [change, [slotChange]],
  makeSlots: [[{ name, slot: 1 }]],
  unlocked: [[{ name, slot: 1 }]],
  endInSlot: [slot],
  createFor: [{ name, permits: null }],
}

type Compiled = (...asked: readonly unknown[]) => Statement

/** PostgreSQL's tables are named by their schema once that is known. */
export const QUALIFIED = mapped(postgresStatements({ schema: 'public' }), (statement) => ({ text: statement({}).text }))

/** All statements on the tables of locks, as they are compiled for tables with the default names. */
export const STATEMENTS: { readonly [Engine in SqlEngine]: Readonly<Record<StatementName<Engine>, Sent>> } = {
  postgres: mapped(postgresStatements({}), (statement) => ({ text: statement({}).text })),
  sqlite: mapped(sqliteStatements({}), (statement) => ({ text: statement({}).text })),
  mysql: mapped(mysqlStatements({}), (statement, name) => {
    const [asked, ...more] = ASKED[name] as readonly [unknown, ...unknown[]]
    const { text } = statement(asked, ...more)
    const times = (count: number, [one]: readonly unknown[]) => Array.from({ length: count }, () => one)
    if (Array.isArray(asked)) return { text, ofMany: (count) => statement(times(count, asked)).text }
    const [changes] = more
    // One lock, and many of its slots.
    if (Array.isArray(changes)) return { text, ofMany: (count) => statement(asked, times(count, changes)).text }
    return { text }
  }),
}

function mapped<Name extends string>(
  statements: Record<Name, unknown>,
  toSent: (statement: Compiled, name: Name) => Sent,
): Record<Name, Sent> {
  const entries = Object.entries(statements) as [Name, Compiled][]
  return Object.fromEntries(entries.map(([name, statement]) => [name, toSent(statement, name)])) as Record<Name, Sent>
}
