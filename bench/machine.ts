import { closeSync, fdatasyncSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs'
import { availableParallelism, cpus, release, tmpdir, totalmem, type } from 'node:os'
import { join } from 'node:path'
import { brief } from './chart.ts'
import { now, percentile } from './harness.ts'

/** What the figures depend on. */
export function describeMachine(versions: Readonly<Record<string, string>>): Record<string, string> {
  return {
    processor: `${cpus()[0]?.model.trim()}, ${availableParallelism()} cores`,
    memory: `${Math.round(totalmem() / 2 ** 30)} GiB`,
    system: `${type()} ${release()}`,
    'node.js': process.version,
    'fdatasync of 8 KiB, p50': `${brief(syncMs())} ms`,
    ...versions,
  }
}

/** What every durable commit waits for, on the disk that the servers use as well. */
function syncMs(): number {
  const folder = mkdtempSync(join(tmpdir(), 'rowlock-bench-'))
  try {
    const file = openSync(join(folder, 'synced'), 'w')
    const page = Buffer.alloc(8192, 1)
    const durations = Array.from({ length: 200 }, () => {
      const startedAt = now()
      writeSync(file, page, 0, page.length, 0)
      fdatasyncSync(file)
      return now() - startedAt
    })
    closeSync(file)
    return percentile(durations, 0.5)
  } finally {
    rmSync(folder, { recursive: true })
  }
}
