import { statSync, utimesSync } from 'node:fs'
import { sql } from 'kysely'
import { DatabaseError } from '../../base/errors.ts'
import type { Runner } from '../runner.ts'
import { statement } from '../statement.ts'
import { engine } from './fragments.ts'
import type { Row } from './rows.ts'

export const fileStatements = {
  changingFile: statement<object>(
    engine,
    () => sql`
      select file, journal_mode
      from pragma_database_list, pragma_journal_mode
      where name = 'main'`,
  ),
}

interface Identity {
  readonly path: string
  readonly device: bigint
  readonly inode: bigint
}

const YEAR_SECONDS = 365 * 24 * 60 * 60

/** The file that is open, as opposed to what its path may lead to meanwhile. */
export class OpenedFile {
  readonly #runner: Runner<never>
  #opened: Identity | null | undefined
  #hinted: string | null | undefined

  constructor(runner: Runner<never>) {
    this.#runner = runner
  }

  /**
   * A file that is replaced or deleted stays open, and whoever opens its path from then on has locks in another one. Looked at
   * before each statement that grants or keeps a lock; a look takes some microseconds.
   */
  isAnother(): DatabaseError | null {
    if (this.#opened == null) return null
    const { path, device, inode } = this.#opened
    const now = identityOf(path)
    if (now?.device === device && now.inode === inode) return null
    return new DatabaseError(
      'other',
      `the file ${path} was ${now === null ? 'deleted' : 'replaced'} while it was open, so others would not see these locks: close the database, open it again, and make another instance with createLocks`,
      { cause: undefined },
    )
  }

  async assertSame(): Promise<void> {
    if (this.#opened === undefined) {
      const main = await this.#main()
      this.#opened = main?.file ? identityOf(String(main.file)) : null
    }
    const another = this.isAnother()
    if (another !== null) throw another
  }

  /** The one whose access time changes after every hand-off to another process. */
  async changing(): Promise<string | null> {
    const main = await this.#main()
    if (!main?.file) return null
    return main.journal_mode === 'wal' ? `${main.file}-wal` : `${main.file}`
  }

  /**
   * Tells the processes that watch the file of a hand-off to one of them, now that its commit can be seen. Systems update
   * access times on reads, too, but not one that is in the future.
   */
  async hint(handedTo: readonly string[], process?: string): Promise<void> {
    if (handedTo.every((to) => to === process)) return
    try {
      if (this.#hinted === undefined) this.#hinted = await this.changing()
      // Finer than Date.now(): two hand-offs within a millisecond are two changes.
      const seconds = (performance.timeOrigin + performance.now()) / 1000
      if (this.#hinted !== null) utimesSync(this.#hinted, seconds + YEAR_SECONDS, seconds)
    } catch {
      // Those who wait look from time to time.
    }
  }

  async #main(): Promise<Row | undefined> {
    const [main] = (await this.#runner.run(fileStatements.changingFile({}))).rows
    return main
  }
}

/** Null if there is no such file. */
function identityOf(path: string): Identity | null {
  const stats = statSync(path, { bigint: true, throwIfNoEntry: false })
  return stats === undefined ? null : { path, device: stats.dev, inode: stats.ino }
}
