import { chmod, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { nodeResolve } from '@rollup/plugin-node-resolve'
import { type OutputChunk, type OutputOptions, type Plugin, type RollupLog, rollup } from 'rollup'
import { dts } from 'rollup-plugin-dts'
import { migrationFiles } from './src/engines/migration-files.ts'

/**
 * Makes dist/ of what the compiler has put into .build/:
 *
 * - dist/node is what Node loads. The implementation is CommonJS; beside each entry, a module for `import` passes on what that
 *   exports. So a process has one rowlock, however it was loaded.
 * - dist itself has the same modules as ESM, for bundlers and for the command: where a bundler makes ESM, the `require` of
 *   CommonJS would fail at run time for all that is not in the bundle, such as node:crypto.
 */

const root = fileURLToPath(new URL('.', import.meta.url))
const compiled = join(root, '.build')
const dist = join(root, 'dist')
const { exports, dependencies, peerDependencies } = JSON.parse(await readFile(join(root, 'package.json'), 'utf8'))
const installed = Object.keys({ ...dependencies, ...peerDependencies })

const modules = (await readdir(compiled, { recursive: true }))
  .filter((file) => file.endsWith('.js'))
  .map((file) => file.slice(0, -'.js'.length))
const entries = Object.values<string | { import: { module: string } }>(exports).flatMap((target) =>
  typeof target === 'string' ? [] : [/^\.\/dist\/(.*)\.js$/.exec(target.import.module)![1]!],
)

await rm(dist, { recursive: true, force: true })
const code = [embedMigrations(), nodeResolve(), omitEmpty()]
const chunks = await bundle(modules, '.js', code, { dir: dist, format: 'es' })
const loaded = await bundle(
  modules.filter((name) => !name.startsWith('cli/')),
  '.js',
  code,
  // Jest refuses `import()`.
  { dir: join(dist, 'node'), format: 'cjs', entryFileNames: '[name].cjs', dynamicImportInCjs: false },
)
await bundle(entries, '.d.ts', [dts()], {
  dir: join(dist, 'node'),
  format: 'es',
  entryFileNames: '[name].d.cts',
  chunkFileNames: '[name].cts',
})
for (const chunk of loaded) if (entries.includes(chunk.name)) await passOn(chunk)
await writeFile(join(dist, 'LICENSES.txt'), await licenses(chunks))
await chmod(join(dist, 'cli/main.js'), 0o755)

/** Each module stays a file, with what it imports of packages that are not installed with rowlock: p-retry has no CommonJS. */
async function bundle(names: string[], extension: string, plugins: Plugin[], output: OutputOptions) {
  const build = await rollup({
    input: Object.fromEntries(names.map((name) => [name, join(compiled, `${name}${extension}`)])),
    external: (id) => id.startsWith('node:') || installed.includes(id),
    plugins,
    onLog(_, log) {
      if (!isHarmless(log)) throw new Error(log.message)
    },
  })
  const written = await build.write({ hoistTransitiveImports: false, minifyInternalExports: false, ...output })
  await build.close()
  return written.output.filter((each) => each.type === 'chunk')
}

function isHarmless({ code, plugin }: RollupLog): boolean {
  return (
    code === 'EMPTY_BUNDLE' ||
    // In the compiler's helpers for `await using`.
    code === 'THIS_IS_UNDEFINED' ||
    // Types without a public name. A test compiles a program whose declarations name what the public functions return.
    plugin === 'dts'
  )
}

/** So that they are found wherever a bundler puts the code. */
function embedMigrations(): Plugin {
  const engines = ['postgres', 'mysql', 'sqlite'] as const
  const files = Object.fromEntries(engines.map((engine) => [engine, migrationFiles(engine)]))
  return {
    name: 'embed-migrations',
    load(id) {
      if (id !== join(compiled, 'engines/migration-files.js')) return null
      return `const files = ${JSON.stringify(files, null, 2)}
export function migrationFiles(engine) {
    return files[engine];
}`
    },
  }
}

/** Modules that have nothing but types. */
function omitEmpty(): Plugin {
  return {
    name: 'omit-empty',
    generateBundle(_, files) {
      for (const [name, file] of Object.entries(files)) {
        if (file.type === 'chunk' && file.exports.length === 0 && file.code.trim() === '') delete files[name]
      }
    },
  }
}

/** By name, since not everything that reads ESM can tell what CommonJS exports. */
async function passOn({ fileName, exports }: OutputChunk): Promise<void> {
  const path = join(dist, 'node', fileName.replace(/\.cjs$/, ''))
  const from = `'./${basename(fileName)}'`
  await writeFile(`${path}.mjs`, `export { ${exports.join(', ')} } from ${from}\n`)
  await writeFile(`${path}.d.mts`, `export * from ${from}\n`)
}

/** Of the packages that are bundled. */
async function licenses(chunks: OutputChunk[]): Promise<string> {
  const files = chunks.flatMap(({ moduleIds }) => moduleIds)
  const packages = new Set(files.flatMap((file) => /^.*\/node_modules\/(?:@[^/]+\/)?[^/]+(?=\/)/.exec(file) ?? []))
  const texts = [...packages].map(async (folder) => {
    const file = (await readdir(folder)).find((name) => /^licen[cs]e/i.test(name))
    if (file === undefined) throw new Error(`${folder} has no license`)
    return `${basename(folder)}\n\n${await readFile(join(folder, file), 'utf8')}`
  })
  return (await Promise.all(texts)).join('\n')
}
