import { type ColumnType, type Generated, type Kysely, sql } from 'kysely'
import type { SqlEngine } from '../../adapters/adapter.ts'
import { migrations } from '../../engines/migrations.ts'
import { connect } from '../connect.ts'

/** All tables of the demo are named so, rowlock's own included. */
export const TABLE_PREFIX = 'rowlock_demo_'

/** A bank: few branches, so that workers meet. One lock per branch covers all its accounts. */
const BRANCHES = ['branch:1', 'branch:2']
const ACCOUNTS_PER_BRANCH = 3
const OPENING_BALANCE = 1000
const MOST_PER_TRANSFER = 100

export interface Account {
  readonly id: number
  readonly branch: string
  readonly balance: number
  /** How many transfers have written this account, by the account's own count. */
  readonly writes: number
}

/** One committed transfer. Rows are only ever appended, so a transfer that was overwritten still shows. */
export interface Entry {
  readonly branch: string
  /** Of the lease it was made under, if there was one. */
  readonly token: bigint | null
  readonly worker: number
  readonly seq: number
  readonly source: number
  readonly target: number
  readonly amount: number
}

export interface LedgerTables {
  rowlock_demo_accounts: Account
  rowlock_demo_ledger: Omit<Entry, 'token'> & {
    readonly id: Generated<number>
    readonly token: ColumnType<string | number | bigint | null, string | null, never>
  }
}

export type LedgerDatabase = Kysely<LedgerTables>

export async function openLedger(databaseUrl: string): Promise<LedgerDatabase> {
  return (await connect(databaseUrl)) as LedgerDatabase
}

/** Makes fresh tables, in place of those that a killed demo may have left. */
export async function createLedger(db: LedgerDatabase, engine: SqlEngine): Promise<void> {
  await dropTables(db, ['accounts', 'ledger'])
  await db.schema
    .createTable('rowlock_demo_accounts')
    .addColumn('id', 'integer', (column) => column.primaryKey())
    .addColumn('branch', 'varchar(40)', (column) => column.notNull())
    .addColumn('balance', 'integer', (column) => column.notNull())
    .addColumn('writes', 'integer', (column) => column.notNull())
    .execute()
  await db.schema
    .createTable('rowlock_demo_ledger')
    .addColumn('id', 'integer', (column) =>
      engine === 'postgres' ? column.primaryKey().generatedAlwaysAsIdentity() : column.primaryKey().autoIncrement(),
    )
    .addColumn('branch', 'varchar(40)', (column) => column.notNull())
    .addColumn('token', 'bigint')
    .addColumn('worker', 'integer', (column) => column.notNull())
    .addColumn('seq', 'integer', (column) => column.notNull())
    .addColumn('source', 'integer', (column) => column.notNull())
    .addColumn('target', 'integer', (column) => column.notNull())
    .addColumn('amount', 'integer', (column) => column.notNull())
    .execute()
  await db.insertInto('rowlock_demo_accounts').values(openingAccounts()).execute()
}

/** Drops the demo's tables, and rowlock's that were made for it. */
export async function dropLedger(db: LedgerDatabase, engine: SqlEngine): Promise<void> {
  await dropTables(db, ['accounts', 'ledger'])
  for (const { undo } of migrations(engine, { tablePrefix: TABLE_PREFIX }).reverse()) {
    for (const statement of undo) await sql.raw(statement).execute(db)
  }
}

async function dropTables(db: LedgerDatabase, tables: readonly string[]): Promise<void> {
  for (const table of tables) await db.schema.dropTable(`${TABLE_PREFIX}${table}`).ifExists().execute()
}

export function openingAccounts(): Account[] {
  return BRANCHES.flatMap((branch, index) =>
    Array.from({ length: ACCOUNTS_PER_BRANCH }, (_, offset) => ({
      id: index * ACCOUNTS_PER_BRANCH + offset + 1,
      branch,
      balance: OPENING_BALANCE,
      writes: 0,
    })),
  )
}

export type Transfer = Omit<Entry, 'token'>

/** A random amount between two random accounts of one branch. */
export function randomTransfer(worker: number, seq: number): Transfer {
  const branch = pick(BRANCHES)
  const accounts = openingAccounts().filter((account) => account.branch === branch)
  const source = pick(accounts)
  const target = pick(accounts.filter((account) => account !== source))
  return { branch, worker, seq, source: source.id, target: target.id, amount: 1 + below(MOST_PER_TRANSFER) }
}

/** Names a transfer in what a worker acknowledges. */
export function transferId({ worker, seq }: Pick<Transfer, 'worker' | 'seq'>): string {
  return `${worker}/${seq}`
}

/** The two accounts of a transfer as they are now, which is before its transaction. */
export function readAccounts(db: LedgerDatabase, { source, target }: Transfer): Promise<Account[]> {
  return db.selectFrom('rowlock_demo_accounts').selectAll().where('id', 'in', [source, target]).orderBy('id').execute()
}

/**
 * Writes what was worked out from `accounts`. If they have changed since they were read, the changes are overwritten: that
 * is the lost write which locks are to prevent.
 */
export async function writeTransfer(
  tx: LedgerDatabase,
  transfer: Transfer,
  accounts: readonly Account[],
  token: bigint | null,
): Promise<void> {
  for (const { id, balance, writes } of accounts) {
    const change = id === transfer.source ? -transfer.amount : transfer.amount
    await tx
      .updateTable('rowlock_demo_accounts')
      .set({ balance: balance + change, writes: writes + 1 })
      .where('id', '=', id)
      .execute()
  }
  await tx
    .insertInto('rowlock_demo_ledger')
    .values({ ...transfer, token: token === null ? null : `${token}` })
    .execute()
}

export interface Books {
  readonly accounts: readonly Account[]
  /** In the order they were written. */
  readonly entries: readonly Entry[]
}

export async function readBooks(db: LedgerDatabase): Promise<Books> {
  const accounts = await db.selectFrom('rowlock_demo_accounts').selectAll().orderBy('id').execute()
  const rows = await db.selectFrom('rowlock_demo_ledger').selectAll().orderBy('id').execute()
  return {
    accounts,
    entries: rows.map(({ id, token, ...transfer }) => ({ ...transfer, token: token === null ? null : BigInt(token) })),
  }
}

export interface Audit {
  /** Writes to an account that were committed and overwritten, or acknowledged and not found. A transfer is two writes. */
  readonly lostWrites: number
  /** By how much the sum of all balances differs from what it was at the opening. */
  readonly moneyOff: number
  /** Everything that must not be, in words. */
  readonly problems: readonly string[]
}

/**
 * Compares the books with themselves and with what workers acknowledged. A transfer that a killed worker committed but could
 * not acknowledge is in the ledger, and counts as a write like any other.
 */
export function audit({ accounts, entries }: Books, acknowledged: ReadonlySet<string>): Audit {
  const problems: string[] = []
  let lostWrites = 0

  if (acknowledged.size === 0) problems.push('nothing was written')

  const found = new Set(entries.map(transferId))
  const missing = [...acknowledged].filter((id) => !found.has(id)).length
  if (missing > 0) problems.push(`${missing} acknowledged transfers are not in the ledger`)
  lostWrites += 2 * missing
  if (found.size < entries.length) problems.push('a transfer was made twice')

  for (const { id, balance, writes } of accounts) {
    const touching = entries.filter(({ source, target }) => source === id || target === id)
    const overwritten = touching.length - writes
    if (overwritten !== 0) {
      problems.push(`account ${id} shows ${writes} of the ${touching.length} transfers in its ledger`)
      lostWrites += Math.max(0, overwritten)
    }
    const flow = touching.reduce((sum, { source, amount }) => sum + (source === id ? -amount : amount), 0)
    if (balance !== OPENING_BALANCE + flow) {
      problems.push(`account ${id} has ${balance}, where its ledger adds up to ${OPENING_BALANCE + flow}`)
    }
  }

  const moneyOff = accounts.reduce((sum, { balance }) => sum + balance - OPENING_BALANCE, 0)
  if (moneyOff !== 0) problems.push(`the sum of all balances is off by ${moneyOff}`)

  const lastTokens = new Map<string, bigint>()
  for (const { branch, token } of entries) {
    if (token === null) continue
    const last = lastTokens.get(branch)
    // Each transfer takes a lease of its own, so tokens do not repeat either.
    if (last !== undefined && token <= last) problems.push(`${branch}: token ${token} was committed after ${last}`)
    lastTokens.set(branch, token)
  }
  return { lostWrites, moneyOff, problems }
}

function pick<T>(choices: readonly T[]): T {
  return choices[below(choices.length)] as T
}

function below(limit: number): number {
  return Math.floor(Math.random() * limit)
}
