import { sql } from 'kysely'
import type { Result, SqlAdapter, Statement } from '../../adapters/adapter.ts'
import type { OwnConnection } from '../../adapters/own-connection.ts'
import { checkRow, otherShape } from '../../adapters/shape.ts'
import { ofEachName } from '../kinds.ts'
import type { Naming } from '../migrations.ts'
import type { Runner } from '../runner.ts'
import { afterAllCommits, readTopology, type Topology } from '../topology.ts'
import { BATCH, type Fragments, NAMES, named } from './fragments.ts'
import type { Steps } from './steps.ts'
import { byName, bytes, type Row, toRow } from './values.ts'

export interface Named {
  readonly name: string
}

/** What the verbs of one database share. */
export interface Context<Tx> {
  readonly adapter: SqlAdapter<Tx>
  readonly naming: Naming
  readonly own: OwnConnection
  readonly runner: Runner<Tx>
  readonly fragments: Fragments
  readonly server: Server
  /** The rows of these locks, by name. */
  read(items: readonly Named[]): Promise<Map<string, Row>>
  readonly steps: Steps
}

/** What is known of the server. */
export class Server {
  #topology: Topology | undefined
  readonly #send: (query: Statement) => Promise<Result>

  constructor(send: (query: Statement) => Promise<Result>) {
    this.#send = send
  }

  get isKnown(): boolean {
    return this.#topology !== undefined
  }

  /**
   * Asked by `send`, in a session like those that take locks. Each asks for itself until there is an answer: who waited for
   * another's question would hang with the connection that it was sent on.
   */
  async ask(send: (query: Statement) => Promise<Result>): Promise<Topology> {
    this.#topology = await readTopology('mysql', async (query) => {
      const { rows } = await send(query)
      for (const row of rows) checkRow(row, 'Variable_name')
      return { rows }
    })
    return this.#topology
  }

  async topology(send = this.#send): Promise<Topology> {
    return this.#topology ?? this.ask(send)
  }
}

export function readStatements({ locks, view }: Fragments) {
  return {
    read: named(sql`select ${view} from ${locks} as l where l.name in ${NAMES} limit ${sql.lit(BATCH)}`),
  }
}

export function reader({
  runner,
  server,
  fragments,
}: Pick<Context<never>, 'runner' | 'server' | 'fragments'>): Context<never>['read'] {
  const statements = readStatements(fragments)
  return async (items) => {
    const query = statements.read(items.map(({ name }) => bytes(name)))
    const { rows } = await runner.keep(afterAllCommits(await server.topology(), query))
    const found = byName(rows.map(toRow))
    const asked = new Set(items.map(({ name }) => name))
    for (const name of found.keys())
      if (!asked.has(name)) throw otherShape('the name of a lock that was asked for', name)
    return found
  }
}

/** One name after the other; `run` answers for all of its items. */
export function byItsName<Item extends Named, Answer>(
  items: readonly Item[],
  run: (name: string, same: readonly Item[]) => Promise<readonly Answer[]>,
): Promise<Answer[]> {
  return ofEachName(items, async (groups) => {
    const answers: (readonly Answer[])[] = []
    for (const group of groups) answers.push(await run(group[0].name, group))
    return answers
  })
}

/** Each name once. */
export function distinct(items: readonly Named[]): Named[] {
  return [...new Set(items.map(({ name }) => name))].map((name) => ({ name }))
}

/** In name order, so that no two batches wait for each other; answers in the order asked. */
export async function inBatches<Item extends Named, Answer>(
  items: readonly Item[],
  run: (batch: readonly Item[]) => Promise<Answer[]>,
): Promise<Answer[]> {
  const sorted = [...items].sort((a, b) => (a.name < b.name ? -1 : 1))
  const answers = new Map<string, Answer>()
  for (let from = 0; from < sorted.length; from += BATCH) {
    const batch = sorted.slice(from, from + BATCH)
    const answered = await run(batch)
    for (const [index, { name }] of batch.entries()) answers.set(name, answered[index]!)
  }
  return items.map(({ name }) => answers.get(name)!)
}
