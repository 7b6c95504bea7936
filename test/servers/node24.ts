import { join } from 'node:path'
import { cached } from './cache.ts'
import { runCommand } from './command.ts'

/** The path of a Node 24 binary, for the tests that need its `node:sqlite`. */
export async function prepareNode24(): Promise<string> {
  if (process.versions.node.startsWith('24.')) return process.execPath
  const directory = await cached('node-24', 'Node 24 from npm', async (draft) => {
    const quiet = ['--no-audit', '--no-fund', '--no-package-lock', '--no-save', '--loglevel=error']
    await runCommand({ program: 'npm', args: ['install', '--prefix', draft, ...quiet, 'node@24'], cwd: draft })
    await runCommand({ program: nodeIn(draft), args: ['--version'] })
  })
  return nodeIn(directory)
}

function nodeIn(directory: string): string {
  return join(directory, 'node_modules/node/bin/node')
}
